"""Disks without room, or without leave to write."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .driver import Ordeal


@contextlib.contextmanager
def no_room(disk: Path) -> Iterator[None]:
    """Leave no byte of *disk* free."""
    filler = disk / "filler"
    try:
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextlib.contextmanager
def full(ordeal: Ordeal, disk: Path) -> Iterator[None]:
    """Leave no room on *disk*, also none in the log of the database: somebody reads what is in it."""
    reader = sqlite3.connect(f"file:{ordeal.database}?mode=ro", uri=True, timeout=10)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchall()
        with no_room(disk):
            yield
    finally:
        reader.close()

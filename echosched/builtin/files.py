"""The files of the built-in jobs: written whole or not at all, listed and removed in small portions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_OUTPUT = re.compile(r"(\d+)\.(\d+)(?:\..*)?")


def write_whole(path: Path, text: str) -> int:
    """Write *text* to *path* (0640) so that a reader sees the old file or the new one; return its bytes."""
    data = text.encode("utf-8", "backslashreplace")
    # A name of its own: another run may be writing the same file now, in another process.
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return len(data)


async def publish(directory: Path, name: str, latest: str, texts: dict[str, str]) -> list[Path]:
    """Write a document in several forms (suffix → text) as *name* and, for bookmarks, as *latest*."""

    def work() -> list[Path]:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        written = []
        for suffix, text in texts.items():
            path = directory / f"{name}.{suffix}"
            write_whole(path, text)
            write_whole(directory / f"{latest}.{suffix}", text)
            written.append(path)
        return written

    return await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class Found:
    """A file in ``runs/`` that carries a run's number."""

    path: Path
    run: int
    bytes: int
    modified: float


def outputs(directory: Path) -> Iterator[Found]:
    """Yield the output files under *directory* (``RUN.ATTEMPT…``); anything else there is not ours to judge."""
    try:
        entries = os.scandir(directory)
    except OSError:
        return
    with entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it may vanish while we look
                if entry.is_dir(follow_symlinks=False):
                    yield from outputs(Path(entry.path))
                elif (match := _OUTPUT.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    yield Found(Path(entry.path), int(match[1]), found.st_size, found.st_mtime)


def remove(paths: Iterable[Path]) -> tuple[int, int]:
    """Remove files; return how many went and the bytes they held. What is gone already counts as nothing."""
    count = size = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            held = path.lstat().st_size
            path.unlink()
            count += 1
            size += held
    return count, size

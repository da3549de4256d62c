"""Houses for ordeals, disks of their own, and a clock that can be moved."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .driver import Ordeal
from .shim import ClockShim


@pytest.fixture
def ordeal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordeal]:
    ordeal = Ordeal(tmp_path_factory.mktemp("t"))
    yield ordeal
    ordeal.close()


@pytest.fixture
def shim(ordeal: Ordeal, tmp_path: Path) -> Iterator[ClockShim]:
    yield ClockShim(tmp_path, ordeal)
    ordeal.close()


@pytest.fixture
def mounted(tmp_path: Path, ordeal: Ordeal) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts something; all of it is gone afterwards, and the daemon before it."""
    points: list[Path] = []

    def mount(*arguments: str) -> Path:
        point = tmp_path / f"m{len(points)}"
        point.mkdir()
        done = subprocess.run(["mount", *arguments, str(point)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting does not work here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    ordeal.close()
    for point in points:
        while os.path.ismount(point):
            subprocess.run(["umount", "--lazy", str(point)], check=True)

"""Houses for ordeals, disks of their own, and a clock that can be moved."""

from __future__ import annotations

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
def mounted(mounted: Callable[..., Path], ordeal: Ordeal) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts something; before that goes, the daemon does."""
    yield mounted
    ordeal.close()

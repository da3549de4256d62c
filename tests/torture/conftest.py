"""Houses for ordeals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .driver import Ordeal


@pytest.fixture
def ordeal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordeal]:
    ordeal = Ordeal(tmp_path_factory.mktemp("t"))
    yield ordeal
    ordeal.close()

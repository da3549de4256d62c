"""Fleets of hosts, taken away when the test ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.postgres import programs

from .fleet import Fleet, fleet_of

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFleet]:
    """Return a function that gives a fleet of so many hosts, with its database running."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    with contextlib.ExitStack() as stack:

        def make(count: int = 2, **options: Any) -> Fleet:
            # A short name: a socket's path has room for 107 bytes.
            return stack.enter_context(fleet_of(tmp_path_factory.mktemp("c"), count, **options))

        yield make

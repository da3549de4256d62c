"""Which tests of the contract make no sense for which store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a disk where the store is in bad times and has none."""
    out = [item for item in items if item.get_closest_marker("needs_disk") and "[degraded" in item.name]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def contract_database(postgres: PostgresServer) -> Iterator[str]:
    """Return the address of a database; each test takes a schema of its own in it, which is quicker."""
    with postgres.database() as name:
        yield postgres.dsn(name)

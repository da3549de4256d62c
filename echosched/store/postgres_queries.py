"""The named queries of ``sql/postgres_queries.sql``, and how to run one inside an open transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echosched.model import Run
from echosched.store.postgres_link import Connection
from echosched.store.queries import postgres_query
from echosched.store.rows import RUN_LIST, run_from_row


async def fetch(connection: Connection, name: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """Return all rows that the query *name* answers."""
    cursor = await connection.execute(postgres_query(name), values)
    rows: list[Any] = await cursor.fetchall()
    return rows


async def fetch_runs(connection: Connection, name: str, values: Mapping[str, Any] | None = None) -> list[Run]:
    """Return the runs that the query *name* answers, in its order."""
    cursor = await connection.execute(postgres_query(name, columns=RUN_LIST), values)
    return [run_from_row(row) for row in await cursor.fetchall()]


async def execute(connection: Connection, name: str, values: Mapping[str, Any] | None = None) -> None:
    """Have the query *name* run. Nothing is waited for: it travels with the next one whose answer is."""
    await connection.execute(postgres_query(name), values)

"""A look at a PostgreSQL server that changes nothing: does it answer, what may we do there, what lies there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from echosched.clock import SystemClock, from_micros
from echosched.store.postgres import SCHEMA
from echosched.store.postgres_link import Link
from echosched.store.postgres_queries import fetch
from echosched.store.postgres_schema import migrations


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. *seconds* is how long one answer took, *skew_seconds* how far this host's clock is ahead.

    *version*: of the tables, 0 where there are none yet, ``None`` where it may not be read; *newest*: the one that
    this program makes. *denied*: tables in which the role may not read and write everything.
    """

    server: str
    role: str
    database: str
    seconds: float
    skew_seconds: float
    standby: bool
    may_create: bool
    version: int | None
    newest: int
    denied: tuple[str, ...] = ()


async def look(dsn: str, *, schema: str = SCHEMA, connect_seconds: float = 3.0) -> Look:
    """Return what is to be seen at *dsn*; raises ``StoreUnusable`` or ``StoreUnavailable`` where nothing is."""
    link = Link(dsn, schema=schema, connect_seconds=connect_seconds)
    clock = SystemClock()
    async with link.lone_connection() as connection:
        best: tuple[float, datetime, datetime] | None = None
        for _ in range(3):  # the quickest answer says most about the clock
            before, wall = clock.monotonic(), clock.now()
            [(micros,)] = await fetch(connection, "now")
            took = clock.monotonic() - before
            if best is None or took < best[0]:
                best = took, wall, from_micros(micros)
        assert best is not None  # noqa: S101  (three times round)
        seconds, wall, there = best
        [row] = await fetch(connection, "probe")
        tables = await fetch(connection, "probe_tables", {"schema": schema})
        version: int | None = None if tables else 0
        if any(name == "meta" and reads for name, reads, _ in tables):
            [(version,)] = await fetch(connection, "schema_version")
    return Look(
        server=row[0].partition(" ")[0],  # without the distribution's own number
        role=row[1],
        database=row[2],
        seconds=seconds,
        skew_seconds=(wall - there).total_seconds() + seconds / 2,
        standby=row[3],
        may_create=row[4],
        version=version,
        newest=len(migrations()),
        denied=tuple(name for name, _, everything in tables if not everything),
    )

"""The schema on a PostgreSQL server: created, judged, migrated up; Procrastinate's own beside ours.

All of it lives in one PostgreSQL schema (``echosched``), so that an application's tables, also its own
Procrastinate, stay untouched in the same database.
"""

from __future__ import annotations

from typing import Any

from echosched.errors import StoreUnusable
from echosched.store.postgres_link import Link
from echosched.store.queries import SQL_DIRECTORY


def migrations() -> tuple[str, ...]:
    """Return the steps from nothing to the newest schema; the n-th leads to version n."""
    return tuple(path.read_text("utf-8") for path in sorted(SQL_DIRECTORY.glob("postgres_0*.sql")))


async def migrate(link: Link, steps: tuple[str, ...]) -> None:
    """Bring the schema up to ``len(steps)``; raises ``StoreUnusable`` for a newer one, which is not touched."""

    async def work(connection: Any) -> None:
        # One at a time: instances that start together would otherwise both create it.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"migrate {link.schema}",))
        version = await _version(connection, link.schema)
        if version > len(steps):
            raise _newer(link, version, len(steps))
        if version == 0:
            await _create(connection, link)
        for number in range(version + 1, len(steps) + 1):
            await connection.execute(steps[number - 1])
        if version < len(steps):
            await connection.execute("UPDATE meta SET version = %s", (len(steps),))
        await _migrate_procrastinate(connection)

    await link.transact(work, scripts=True)


async def judge(link: Link, steps: tuple[str, ...]) -> None:
    """See whether the tables are those that this program reads, without making or changing any."""
    version = await link.transact(lambda connection: _version(connection, link.schema))
    if version > len(steps):
        raise _newer(link, version, len(steps))
    if version < len(steps):
        found = f"schema {link.schema} has version {version}" if version else "there are no tables yet"
        raise StoreUnusable(f"{link.place}: {found} (echoschedd start brings them up)")


def _newer(link: Link, version: int, known: int) -> StoreUnusable:
    return StoreUnusable(
        f"{link.place}: schema {link.schema} has version {version}, and this program knows only up to"
        f" {known}; nothing was changed (upgrade EchoSched on this host)"
    )


async def _version(connection: Any, schema: str) -> int:
    found = await (
        await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f'"{schema}".meta',))
    ).fetchone()
    if not found[0]:
        return 0
    row = await (await connection.execute("SELECT version FROM meta")).fetchone()
    return int(row[0])


async def _create(connection: Any, link: Link) -> None:
    from psycopg import sql

    exists = await (
        await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (link.schema,))
    ).fetchone()
    if exists is None:
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(link.schema)))
    await connection.execute("CREATE TABLE meta (version integer NOT NULL, procrastinate text NOT NULL)")
    # Procrastinate asks for the language in pg_catalog, where it always is.
    await connection.execute(_procrastinate_schema())
    newest = _procrastinate_migrations()[-1][0]
    await connection.execute("INSERT INTO meta VALUES (0, %s)", (newest,))


def _procrastinate_schema() -> str:
    from importlib.resources import files

    return (files("procrastinate") / "sql" / "schema.sql").read_text("utf-8")


def _procrastinate_migrations() -> list[tuple[str, str]]:
    """Return Procrastinate's migrations (name, text), oldest first; versions are zero-padded in their names."""
    from importlib.resources import files

    folder = files("procrastinate") / "sql" / "migrations"
    found = [
        (entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql")
    ]
    return sorted(found)


async def _migrate_procrastinate(connection: Any) -> None:
    """Apply the migrations of a Procrastinate that is newer than the one that made the schema."""
    row = await (await connection.execute("SELECT procrastinate FROM meta FOR UPDATE")).fetchone()
    newer = [(name, text) for name, text in _procrastinate_migrations() if name > row[0]]
    for _, text in newer:
        await connection.execute(text)
    if newer:
        await connection.execute("UPDATE meta SET procrastinate = %s", (newer[-1][0],))

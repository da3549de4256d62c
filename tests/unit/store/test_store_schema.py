"""Opening the file: what is created, refused, migrated and copied aside."""

from __future__ import annotations

import os
import sqlite3
import stat
from datetime import UTC, datetime

import pytest

from echosched.errors import StoreCorrupt, StoreError, StoreUnavailable, StoreUnusable
from echosched.model import Claim, State, Trigger
from echosched.store.queries import read_rows, write_rows
from echosched.store.schema import APPLICATION_ID, migrations
from echosched.store.sqlite import SqliteStore
from echosched.testing import FakeClock

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
CLAIM = Claim("brief", NOW, Trigger.SCHEDULE, State.RUNNING, NOW)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "echosched.db"


async def open_and_close(path, **options):
    store = SqliteStore(path, **options)
    await store.open()
    await store.close()


async def refused(path, message, **options):
    """Opening *path* is refused with *message*, and every file around it stays as it was."""
    before = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    with pytest.raises(StoreUnusable, match=message):
        await open_and_close(path, **options)
    after = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    assert after == before


async def test_a_new_file_has_mode_0640_whatever_the_umask(path):
    old = os.umask(0o077)
    try:
        await open_and_close(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_an_empty_file_is_filled(path):
    path.touch()
    await open_and_close(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations())
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"hello, this is a diary\n" * 300,
        b"SQLite format 2\0" + bytes(4096),
        os.urandom(8192),
        bytes(5000),
    ],
    ids=["one byte", "text", "old SQLite", "noise", "zeros"],
)
async def test_what_is_not_a_database_is_refused_untouched(path, content):
    path.write_bytes(content)
    await refused(path, "not a SQLite database; nothing was changed")
    await refused(path, "not a SQLite database", read_only=True)


async def test_another_programs_database_is_refused_untouched(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    await refused(path, "another program's database")


async def test_a_newer_schema_is_refused_untouched_with_both_versions(path):
    await open_and_close(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(migrations()) + 7}")
    connection.close()
    await refused(path, f"schema {len(migrations()) + 7}, .* only up to {len(migrations())}")
    await refused(path, "upgrade EchoSched", read_only=True)


async def test_a_symbolic_link_is_refused(path, tmp_path):
    await open_and_close(tmp_path / "real.db")
    path.symlink_to(tmp_path / "real.db")
    await refused(path, "symbolic link")
    dangling = tmp_path / "dangling.db"
    dangling.symlink_to(tmp_path / "nowhere.db")
    await refused(dangling, "symbolic link")
    assert not (tmp_path / "nowhere.db").exists()


async def test_what_is_no_plain_file_is_refused(path, tmp_path):
    os.mkfifo(path)
    with pytest.raises(StoreUnusable, match="not a plain file"):
        await open_and_close(path)
    with pytest.raises(StoreUnusable, match="not a plain file"):
        await open_and_close(tmp_path)


async def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"nowhere.*No such file"):
        await open_and_close(tmp_path / "nowhere" / "echosched.db")


async def test_a_damaged_schema_page_is_told_as_damage(path):
    await open_and_close(path)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="damaged"):
        await open_and_close(path)


async def test_a_name_full_of_specials_works(tmp_path):
    path = tmp_path / "a b?c#d%20é&mode=ro.db"
    await open_and_close(path)
    assert path.exists()


# ── migrations ────────────────────────────────────────────────────────────────────────────────

NEXT = "ALTER TABLE jobs ADD COLUMN colour TEXT; -- a remark; with a semicolon\nCREATE TABLE extra (n INTEGER);\n"


async def filled(path):
    store = SqliteStore(path)
    await store.open()
    (run,) = await store.claim([CLAIM])
    await store.close()
    return run


async def test_a_migration_keeps_the_rows_and_sets_a_copy_aside(path, tmp_path):
    run = await filled(path)
    steps = [*migrations(), NEXT]
    store = SqliteStore(path, steps=steps, clock=FakeClock(NOW))
    await store.open()
    assert (await store.get_run(run)).job == "brief"
    assert await store.claim([CLAIM]) == [None]
    await store.close()
    copy = tmp_path / f"echosched.db.schema-{len(migrations())}-20260301T080000Z"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    await refused(path, f"schema {len(steps)}")  # the old program does not touch the new schema
    old = SqliteStore(copy)
    await old.open()
    assert (await old.get_run(run)).job == "brief"
    await old.close()
    await open_and_close(path, steps=steps)  # no second copy where nothing is to be migrated
    assert len(list(tmp_path.glob("*.schema-*"))) == 1


async def test_the_copy_holds_what_is_still_in_the_log(path, tmp_path):
    writer = SqliteStore(path)
    await writer.open()
    (run,) = await writer.claim([CLAIM])
    assert (tmp_path / "echosched.db-wal").stat().st_size > 0
    newer = SqliteStore(path, steps=[*migrations(), NEXT])
    await newer.open()
    await newer.close()
    await writer.close()
    (copy,) = tmp_path.glob("*.schema-*Z")
    old = SqliteStore(copy)
    await old.open()
    assert (await old.get_run(run)).job == "brief"
    await old.close()


async def test_a_migration_that_fails_changes_nothing(path):
    run = await filled(path)
    with pytest.raises(StoreError, match="no such table"):
        await open_and_close(path, steps=[*migrations(), NEXT + "INSERT INTO nowhere VALUES (1);"])
    store = SqliteStore(path)
    await store.open()
    assert (await store.get_run(run)).job == "brief"
    assert await store.check() == []
    await store.close()


async def test_reading_an_older_schema_is_refused_with_the_cure(path):
    await filled(path)
    await refused(path, "start the daemon once", steps=[*migrations(), NEXT], read_only=True)


# ── read only ─────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_sees_what_a_writer_commits_and_writes_nothing(path):
    writer = SqliteStore(path)
    await writer.open()
    reader = SqliteStore(path, read_only=True)
    await reader.open()
    (run,) = await writer.claim([CLAIM])
    assert (await reader.get_run(run)).job == "brief"
    with pytest.raises(StoreError, match="reading only"):
        await reader.claim([CLAIM])
    await reader.close()
    await writer.claim([Claim("other", NOW, Trigger.SCHEDULE, State.RUNNING, NOW)])
    await writer.close()


async def test_a_reader_that_came_first_sees_what_a_later_writer_commits(path, tmp_path):
    run = await filled(path)
    reader = SqliteStore(path, read_only=True)
    await reader.open()
    assert [r.run for r in await reader.history()] == [run]
    assert [p.name for p in tmp_path.iterdir()] == ["echosched.db"], "reading leaves nothing behind"
    writer = SqliteStore(path)
    await writer.open()
    (later,) = await writer.claim([Claim("other", NOW, Trigger.SCHEDULE, State.RUNNING, NOW)])
    assert [r.run for r in await reader.history()] == [later, run]
    await writer.close()
    assert [r.run for r in await reader.history()] == [later, run]
    await reader.close()


async def test_reading_where_no_database_is_says_so_and_makes_none(path):
    with pytest.raises(StoreUnavailable, match="has a daemon run here"):
        await open_and_close(path, read_only=True)
    assert not path.exists()


async def test_a_closed_store_says_so(path):
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="not open"):
        await store.active()
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="not open"):
        await store.claim([CLAIM])


# ── many rows in one statement ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 511, 512, 513, 1_801])
def test_rows_are_written_and_read_in_pieces_of_every_size(count):
    connection = sqlite3.connect(":memory:")
    for step in migrations():
        connection.executescript(step)
    rows = [(f"job{n}", n, n + 1) for n in range(count)]
    assert write_rows(connection, "claim_slots", rows) == count
    assert write_rows(connection, "claim_slots", rows) == 0
    assert read_rows(connection, "won_slots", rows) == [row[2] for row in rows]
    connection.close()

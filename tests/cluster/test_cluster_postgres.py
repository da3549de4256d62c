"""The PostgreSQL of the tests: real, unprivileged, restartable, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psycopg
import pytest

from tests.postgres import PostgresServer, programs

pytestmark = pytest.mark.postgres


def ask(dsn: str, question: str) -> str:
    with contextlib.closing(psycopg.connect(dsn, connect_timeout=10)) as connection:
        [answer] = connection.execute(question).fetchone()
        return str(answer)


def test_each_test_gets_a_database_of_its_own_that_syncs_to_disk(database: str) -> None:
    assert ask(database, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == "0"
    assert [ask(database, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]


def test_a_wrong_password_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            f"postgresql://echosched:wrong@127.0.0.1:{postgres.port}/postgres", connect_timeout=10
        )


def test_a_server_restarts_with_its_data_and_leaves_nothing() -> None:
    found = programs()
    if found is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    server = PostgresServer(found)
    try:
        server.create()
        server.start()
        pid = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
        assert os.stat(f"/proc/{pid}").st_uid != 0
        with server.database() as name:
            server.sql(name, "CREATE TABLE kept AS SELECT 42 AS answer")
            server.restart()
            assert ask(server.dsn(name), "SELECT answer FROM kept") == "42"
            server.restart(signal.SIGQUIT)
            assert ask(server.dsn(name), "SELECT answer FROM kept") == "42"
    finally:
        server.remove()
    assert not Path(f"/proc/{pid}").exists()
    assert not server.directory.exists()

"""The shared database as ``doctor`` sees it, and what can be read of it while no daemon runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgres import PASSWORD, PostgresServer
from tests.system.conftest import House, eventually

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]
JOBS = '[job.a]\nschedule = "@daily"\ncommand = "echo done"\n'


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("d"))
    yield house
    house.close()


def write(house: House, dsn: str) -> None:
    house.write(f'[cluster]\ndsn = """{dsn}"""\ninstance = "here"\n{JOBS}')


def examine(house: House, dsn: str) -> dict[str, dict[str, Any]]:
    """Return what doctor finds of the cluster; nothing that it says holds the password."""
    write(house, dsn)
    done = house.run("doctor", "--json")
    assert PASSWORD not in done.stdout + done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert all("\n" not in finding["finding"] for finding in findings)
    return {finding["check"]: finding for finding in findings if finding["check"].startswith("cluster")}


def test_doctor_looks_at_the_database_and_changes_nothing(
    house: House, postgres: PostgresServer, database: str
) -> None:
    name = database.rpartition("/")[2]
    found = examine(house, database)
    assert [finding["state"] for finding in found.values()] == ["ok", "ok", "ok"], found
    assert found["cluster tables"]["finding"] == "none yet: the first start makes them"
    assert "PostgreSQL" in found["cluster"]["finding"]
    assert postgres.ask(name, "SELECT 1 FROM pg_namespace WHERE nspname = 'echosched'") == []
    house.ok("start")
    house.ok("stop")
    assert "version 1, role" in examine(house, database)["cluster tables"]["finding"]
    postgres.sql(name, "UPDATE echosched.meta SET version = 999")
    newer = examine(house, database)["cluster tables"]
    assert (newer["state"], newer["cure"]) == ("bad", "upgrade EchoSched on this host")


def test_doctor_names_what_keeps_this_host_out(house: House, postgres: PostgresServer) -> None:
    away = examine(house, "postgresql://echo@127.0.0.1:1/jobs?connect_timeout=2")["cluster"]
    assert (away["state"], "127.0.0.1:1/jobs: cannot be reached" in away["finding"]) == ("bad", True)
    unset = examine(house, "${env:NO_SUCH_DATABASE}")["cluster"]
    assert (unset["state"], "NO_SUCH_DATABASE" in unset["finding"]) == ("bad", True)
    assert "nosuch" in examine(house, postgres.dsn("nosuch"))["cluster"]["finding"]
    with postgres.database() as name:
        postgres.sql(name, "DROP ROLE IF EXISTS lowly", "CREATE ROLE lowly LOGIN")
        lowly = postgres.local(name, user="lowly")
        assert examine(house, lowly)["cluster tables"]["cure"] == (
            f"GRANT CREATE ON DATABASE {name} TO lowly (in psql)"
        )
        write(house, postgres.local(name))
        house.ok("start")
        house.ok("stop")
        denied = examine(house, lowly)["cluster tables"]
        assert (denied["state"], denied["cure"]) == ("bad", "let all hosts use the role that made them")
        postgres.sql(name, "DROP ROLE lowly")


def test_history_and_output_are_read_where_they_are_when_no_daemon_runs(
    house: House, postgres: PostgresServer, database: str
) -> None:
    write(house, database)
    said = house.run("history")
    assert said.returncode == 1
    assert "there are no tables yet (echoschedd start brings them up)" in said.stderr
    house.ok("start")
    house.ok("run", "a", "--wait")
    house.ok("stop")
    [row] = json.loads(house.ok("history", "--json"))
    assert (row["job"], row["state"], row["owner"]) == ("a", "succeeded", "here")
    assert "here" in house.ok("history", "a")
    assert house.ok("output", str(row["run"])) == "done\n"
    assert house.run("history", "nosuch").returncode == 1
    name = database.rpartition("/")[2]
    postgres.sql(name, "UPDATE echosched.runs SET owner = 'there'")
    for path in house.files():
        if path.name.startswith(f"{row['run']}.1."):
            path.unlink()
    elsewhere = house.run("output", str(row["run"]))
    assert elsewhere.stderr == f"echoschedd: run {row['run']}: ran on there, and its output lies there\n"
    postgres.stop()
    try:
        eventually(lambda: house.run("history").returncode == 1)
        away = house.run("history")
        assert len(away.stderr.splitlines()) == 1
        assert "cannot be reached" in away.stderr
        assert PASSWORD not in away.stderr
    finally:
        postgres.start()

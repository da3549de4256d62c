"""What is wrong with the database, or with our place in it, is told in one line, and nothing is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.system.conftest import House, eventually

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]
JOB = '[job.a]\nschedule = "@daily"\ncommand = "true"\n'


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("r"))
    yield house
    house.close()


def start(house: House, dsn: str, more: str = "") -> tuple[int, str]:
    house.write(f'[cluster]\ndsn = """{dsn}"""\ninstance = "here"\n{more}{JOB}')
    done = house.run("start")
    return done.returncode, done.stderr.strip()


def refused(house: House, dsn: str) -> str:
    """Return the one line with which a start is refused."""
    code, said = start(house, dsn)
    assert code == 1, said
    assert len(said.splitlines()) == 1, said
    assert not house.status["running"]
    return said


def test_a_server_that_is_not_there(house: House, postgres: PostgresServer) -> None:
    said = refused(house, "postgresql://echo:hunter2@127.0.0.1:1/jobs?connect_timeout=2")
    assert "127.0.0.1:1" in said
    assert "hunter2" not in said + house.out


def test_a_wrong_password(house: House, postgres: PostgresServer) -> None:
    said = refused(house, f"postgresql://echosched:hunter2@127.0.0.1:{postgres.port}/postgres")
    assert "password" in said
    assert "hunter2" not in said + house.out


def test_a_database_that_does_not_exist(house: House, postgres: PostgresServer) -> None:
    assert "nosuch" in refused(house, postgres.dsn("nosuch"))


def test_a_role_without_rights(house: House, postgres: PostgresServer) -> None:
    with postgres.database() as name:
        postgres.sql(
            name,
            "DROP ROLE IF EXISTS lowly",
            "CREATE ROLE lowly LOGIN",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        )
        said = refused(house, postgres.local(name, user="lowly"))
        assert "permission" in said or "grant" in said.lower()
        postgres.sql(name, "DROP ROLE lowly")


def test_a_newer_schema(house: House, postgres: PostgresServer, database: str) -> None:
    assert start(house, database)[0] == 0
    house.ok("stop")
    name = database.rpartition("/")[2]
    postgres.sql(name, "UPDATE echosched.meta SET version = 999")
    said = refused(house, database)
    assert "has version 999" in said
    assert "upgrade" in said


def test_a_name_that_another_living_instance_has(
    house: House, database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = House(tmp_path_factory.mktemp("o"))
    try:
        assert start(other, database)[0] == 0
        said = refused(house, database)
        assert "here" in said
    finally:
        other.close()


def test_a_variable_that_is_unset_is_named(house: House, postgres: PostgresServer) -> None:
    said = refused(house, "${env:NO_SUCH_DATABASE}")
    assert "${env:NO_SUCH_DATABASE}" in said


def test_the_address_is_in_no_file_and_no_answer(house: House, database: str, tmp_path: Path) -> None:
    """The password stands in the configuration, and nowhere else."""
    from tests.postgres import PASSWORD

    assert start(house, database)[0] == 0
    eventually(lambda: house.status["health"] == "ok")
    house.ok("reload")
    answers = [
        house.run(*words)
        for words in (("status",), ("status", "--json"), ("cluster", "status"), ("check",), ("doctor",))
    ]
    secret = database.partition("//")[2].partition("@")[0].partition(":")[2]
    house.ok("stop")
    texts = [done.stdout + done.stderr for done in answers]
    texts += [
        path.read_bytes().decode("utf-8", "replace")
        for path in house.files()
        if path.name != "echosched.toml"
    ]
    for text in texts:
        assert secret not in text
        assert PASSWORD not in text

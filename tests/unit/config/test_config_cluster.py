"""The ``[cluster]`` table: what it takes, what it refuses, and that the address is never repeated."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from echosched.config import cluster as cluster_table
from echosched.config.cluster import address, dsn_problem, read_cluster
from echosched.config.load import load
from echosched.config.settings import Cluster, Config
from echosched.config.values import Problems
from echosched.errors import ConfigError

DSN = "postgresql://echo:hunter2@db.example.org:5433/jobs?sslmode=require"


def read(**table: Any) -> Cluster:
    problems = Problems()
    found = read_cluster(table, "echosched.toml", problems)
    assert not problems.lines, problems.lines
    assert found is not None
    return found


def wrong(**table: Any) -> list[str]:
    problems = Problems()
    assert read_cluster({"dsn": DSN, "instance": "a", **table}, "echosched.toml", problems) is None
    return [line.removeprefix("echosched.toml: cluster.") for line in problems.lines]


def config(tmp_path: Path, text: str, **environ: str) -> Config:
    (tmp_path / "echosched.toml").write_text(text)
    return load(str(tmp_path / "echosched.toml"), environ=environ, uid=1000)


def test_without_the_table_there_is_no_cluster(tmp_path: Path) -> None:
    assert config(tmp_path, '[job.a]\nschedule = "@daily"\ncommand = "true"\n').cluster is None


def test_all_keys_arrive_in_the_configuration(tmp_path: Path) -> None:
    text = f'[cluster]\ndsn = "{DSN}"\ninstance = "web-1"\nheartbeat = "2s"\nlease = "7s"\nlabels = ["gpu", "eu"]\n'
    found = config(tmp_path, text).cluster
    assert found == Cluster(
        dsn=DSN,
        instance="web-1",
        heartbeat=timedelta(seconds=2),
        lease=timedelta(seconds=7),
        labels=("eu", "gpu"),
    )


def test_an_instance_is_called_as_its_host_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web-7")
    assert read(dsn=DSN).instance == "web-7"
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    problems = Problems()
    assert read_cluster({"dsn": DSN}, "f", problems) is None
    assert problems.lines == [
        "f: cluster.instance: missing, and this host has no name of its own (each instance needs another name)"
    ]


def test_the_address_is_kept_as_written_and_stays_out_of_every_repr(tmp_path: Path) -> None:
    dsn = "postgresql://echo:${file:/run/secret}@db/jobs"
    found = config(tmp_path, f'[cluster]\ndsn = "{dsn}"\ninstance = "a"\n')
    assert found.cluster is not None
    assert found.cluster.dsn == dsn
    assert "${file" not in repr(found.cluster)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"lease": "20s"},
            'lease: "20s": must be more than twice the heartbeat, or one late beat would take a',
        ),
        ({"heartbeat": "15s"}, 'lease: "30s": must be more than twice the heartbeat'),
        ({"heartbeat": "0"}, 'heartbeat: "0": must be 200ms or more'),
        ({"heartbeat": True}, "heartbeat: true: must be a duration"),
        ({"lease": "0s"}, 'lease: "0s": must be more than zero'),
        ({"instance": ""}, 'instance: "": must not be empty'),
        ({"instance": "a b"}, 'instance: "a b": a name has letters, digits'),
        ({"instance": "a\nb"}, 'instance: "a\\nb": must be a single line'),
        ({"labels": ["a b"]}, 'labels: ["a b"]: "a b" is no label'),
        ({"label": ["a"]}, 'label: unknown key (did you mean "labels"?)'),
        ({"dsn": 5}, "dsn: must be a string"),
        ({"dsn": "mysql://u:hunter2@h/x"}, "dsn: must begin with postgresql://"),
        ({"dsn": "hunter2"}, "dsn: must be a PostgreSQL address such as"),
        ({"dsn": "postgresql://u:hun ter2@h/x"}, "dsn: cannot be read"),
        ({"dsn": "postgresql://u:%hunter2@h/x"}, "dsn: cannot be read"),
        ({"dsn": "host=db password=x hunter2"}, "dsn: cannot be read"),
        ({"dsn": "postgresql://u:hunter2@h/x?sslmod=require"}, "dsn: has no option called sslmod"),
        ({"dsn": "postgresql://u:hunter2@h:70000/x"}, "dsn: its port must be 1–65535"),
        ({"dsn": "postgresql://u@h:hunter2/x"}, "dsn: its port must be 1–65535"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_the_address(table: dict[str, Any], expected: str) -> None:
    [line] = wrong(**table)
    assert line.startswith(expected), line
    assert "hunter2" not in line
    assert "ter2" not in line


def test_several_mistakes_are_told_at_once() -> None:
    assert len(wrong(dsn="x", instance="a b", lease="x")) == 3


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cluster: 3: must be a table"):
        config(tmp_path, "cluster = 3\n")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_table, "find_spec", lambda name: None)
    assert wrong() == [
        "echosched.toml: cluster: psycopg and procrastinate not installed (pip install 'echosched[cluster]')"
    ]


def test_a_secret_that_is_not_there_is_a_warning_that_names_the_reference(tmp_path: Path) -> None:
    text = '[cluster]\ninstance = "a"\ndsn = "postgresql://echo:${env:DBPASS}@db/jobs"\n'
    assert config(tmp_path, text, DBPASS="hunter2").warnings == ()
    [warning] = config(tmp_path, text).warnings
    assert warning == (
        "cluster.dsn: ${env:DBPASS}: not set in the daemon's environment (now; the start looks again"
        " and fails without it)"
    )


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///jobs?host=/run/postgresql",
        "postgres://a,b:5433/jobs?target_session_attrs=read-write",
        "host=db dbname=jobs user=echo",
        "postgresql://${env:USER}:${file:/p}@${env:HOST}:${env:PORT}/jobs",
        "${env:DATABASE_URL}",
    ],
)
def test_addresses_that_postgresql_takes_are_taken(dsn: str) -> None:
    assert dsn_problem(dsn) is None


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (DSN, "db.example.org:5433/jobs"),
        ("postgresql://echo@db/jobs?password=hunter2", "db/jobs"),
        ("postgresql:///jobs?host=%2Frun%2Fpg&password=hunter2", "/run/pg/jobs"),
        ("postgresql:///jobs", "local socket/jobs"),
        ("postgres://u:hunter2@a,b:5433/jobs", "a,b:5433/jobs"),
        ("host=db port=5433 password=hunter2 dbname=jobs", "db:5433/jobs"),
        ("postgresql://u:hunter#2@db/jobs", "db/jobs"),
        ("postgresql://u:hunter?2@db/jobs", "db/jobs"),
        ("postgresql://u:1/hunter2@db/jobs", "…"),
        ("postgresql://u:1@hunter2@db/jobs", "…"),
        ("${env:DATABASE_URL}", "…"),
        ("postgresql://u:${env:P}@${env:HOST}/jobs", "…/jobs"),
    ],
)
def test_what_people_see_of_an_address_holds_no_user_and_no_password(dsn: str, shown: str) -> None:
    assert address(dsn) == shown

"""What ``cluster`` and ``status`` make of the instances, without any."""

from __future__ import annotations

from typing import Any

import pytest

from echosched.cli import cluster, dispatch, status

ROW: dict[str, Any] = {
    "name": "a",
    "host": "web1",
    "pid": 7,
    "version": "1.0",
    "started_at": "2026-11-21T08:00:00.000000Z",
    "heartbeat_at": "2026-11-21T09:00:00.000000Z",
    "alive": True,
    "draining": False,
    "capacity": 64,
    "labels": ["eu"],
    "running": 0,
    "taken": 12,
    "lag_seconds": 0.0214,
    "clock_skew_seconds": 0.0,
    "jobs": 3,
    "differs": [],
    "runs": [],
}


def row(**other: Any) -> dict[str, Any]:
    return {**ROW, **other}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, "alive"),
        ({"alive": False, "draining": True}, "dead"),
        ({"draining": True, "running": 2}, "draining"),
        ({"draining": True}, "drained"),
    ],
)
def test_an_instance_has_one_condition(facts: dict[str, Any], word: str) -> None:
    assert cluster.condition(row(**facts)) == word


def test_the_table_shows_who_runs_what_and_how_late(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [{"run": 5, "job": "brief", "attempt": 1, "started_at": None}]
    rows = [row(running=1, runs=runs), row(name="b", alive=False, lag_seconds=None, labels=[])]
    cluster.show({"instance": "a", "database": "db/jobs", "instances": rows})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == "INSTANCE STATE BEAT RUNS OF TAKEN LAG JOBS LABELS VERSION".split()
    assert shown[1].startswith("a *       alive")
    assert "21 ms" in shown[1]
    assert shown[2].startswith("b         dead")
    assert "  b gives no sign of life (gone for good: cluster remove b)" in shown
    assert "  a: run 5 of brief, starting" in shown


def test_a_database_that_nobody_joined_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    cluster.show({"instance": "a", "database": "db/jobs", "instances": []})
    assert capsys.readouterr().out == "db/jobs: no instance has joined yet\n"


def test_differing_definitions_and_wrong_clocks_are_remarked() -> None:
    rows = [row(differs=[f"j{n}" for n in range(7)]), row(name="b", clock_skew_seconds=-90.0)]
    assert cluster.remarks(rows) == [
        "  a defines otherwise than most: j0, j1, j2, j3, j4 and 2 more",
        "  b: its clock is 1m30s behind the database's (check its time service)",
    ]


def test_status_says_in_one_line_what_needs_a_look() -> None:
    rows = [row(), row(name="b", alive=False), row(name="c", differs=["brief"])]
    line = status._cluster({"instance": "a", "database": "db/jobs", "instances": rows})
    assert line == (
        "a, over db/jobs: 2 alive; 1 dead; b gives no sign of life (gone for good: cluster remove b); "
        "c defines otherwise than most: brief"
    )
    away = {"instance": "a", "database": "db/jobs", "instances": None, "error": "no answer within 1.5 s"}
    assert status._cluster(away) == "a, over db/jobs: no answer within 1.5 s"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["cluster", "statsu"], 2, 'echoschedd: cluster: statsu: no such action (did you mean "status"?)'),
        (["cluster", "x"], 2, "echoschedd: cluster: x: no such action (status, drain, remove)"),
        (["cluster"], 2, "echoschedd: cluster: <action> is missing"),
        (["cluster", "remove"], 2, "echoschedd: cluster remove: <instance> is missing"),
        (["cluster", "status", "--undo"], 2, "echoschedd: cluster status: --undo goes with drain"),
        (["cluster", "status"], 2, "echoschedd: cluster: this host is alone (there is no [cluster] in its"),
        (["cluster", "drain"], 2, "echoschedd: cluster: this host is alone"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], code: int, line: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "echosched.toml").write_text('[job.a]\nschedule = "@daily"\ncommand = "true"\n')
    assert dispatch.dispatch([*words, "--home", str(tmp_path)]) == code
    assert capsys.readouterr().err.startswith(line)

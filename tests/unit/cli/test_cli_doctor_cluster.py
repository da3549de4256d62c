"""What ``doctor`` says of a database that many hosts share: one line for each thing, each with its cure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from echosched.cli.doctor_cluster import judge
from echosched.cli.findings import Finding
from echosched.store.postgres_probe import Look

GOOD = Look("15.4", "echo", "jobs", 0.002, 0.0004, standby=False, may_create=True, version=1, newest=1)


def said(seen: Look) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge(seen, "db.example.org/jobs")}


def test_a_good_database_is_three_good_lines() -> None:
    found = said(GOOD)
    assert [finding.state for finding in found.values()] == ["ok", "ok", "ok"]
    assert found["cluster"].finding == "db.example.org/jobs: PostgreSQL 15.4 answers in 2 ms"
    assert found["cluster tables"].finding == "version 1, role echo may read and write them"
    assert found["cluster clock"].finding == "as the database's (within 0.001 s)"


@pytest.mark.parametrize(
    ("change", "check", "state", "words", "cure"),
    [
        ({"standby": True}, "cluster", "bad", "a standby", "primary"),
        ({"seconds": 0.25}, "cluster", "warn", "answers in 250 ms", "nearer"),
        ({"version": None}, "cluster tables", "bad", "may not read them", "the role that made them"),
        ({"version": 3}, "cluster tables", "bad", "version 3; this program knows only up to 1", "upgrade"),
        ({"version": 0}, "cluster tables", "ok", "none yet", None),
        (
            {"version": 0, "may_create": False},
            "cluster tables",
            "bad",
            "role echo may not make them",
            "GRANT CREATE ON DATABASE jobs TO echo",
        ),
        ({"version": 1, "newest": 2}, "cluster tables", "ok", "the next start brings them up to 2", None),
        ({"denied": ("runs", "slots")}, "cluster tables", "bad", "(runs, slots)", "the role that made them"),
        ({"skew_seconds": 90.04}, "cluster clock", "warn", "90.0 s ahead of the database's", "ntpd"),
        ({"skew_seconds": -1.5}, "cluster clock", "warn", "1.5 s behind the database's", "ntpd"),
    ],
)
def test_each_fault_is_one_line_with_its_cure(
    change: dict[str, object], check: str, state: str, words: str, cure: str | None
) -> None:
    finding = said(replace(GOOD, **change))[check]  # type: ignore[arg-type]
    assert finding.state == state
    assert words in finding.finding
    assert (finding.cure is None) == (cure is None)
    assert cure is None or cure in (finding.cure or "")

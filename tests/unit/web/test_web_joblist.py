"""A page of the list of jobs: what is found, in which order, how many of each kind there are."""

from __future__ import annotations

from typing import Any

import pytest

from echosched.web.joblist import page_of


def job(name: str, **facts: Any) -> dict[str, Any]:
    return {"name": name, "description": "", "enabled": True, "paused": False, "parked": None, "next_at": None,
            "last_run": None, "running": [], **facts}  # fmt: skip


def ended(state: str, at: str) -> dict[str, Any]:
    return {"state": state, "ended_at": f"2026-01-{at}", "queued_at": None}


JOBS = [
    job("calm", next_at="2026-02-03", last_run=ended("succeeded", "09")),
    job("bad", last_run=ended("failed", "05")),
    job("worse", last_run=ended("timed_out", "07")),
    job("late", last_run=ended("missed", "08")),
    job("aside", parked="it raised"),
    job("resting", paused=True, description="Sleeps at night"),
    job("off", enabled=False, labels=["Night"]),
    job("busy", next_at="2026-02-01", running=[{"run": 7}]),
    job("new", next_at="2026-02-02"),
]


def names(**how: Any) -> list[str]:
    return [found["name"] for found in page_of(JOBS, **how).jobs]


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({}, ["aside", "bad", "busy", "calm", "late", "new", "off", "resting", "worse"]),
        ({"down": True, "limit": 2}, ["worse", "resting"]),
        ({"offset": 7}, ["resting", "worse"]),
        ({"after": "new"}, ["off", "resting", "worse"]),
        ({"text": "  NIGHT "}, ["off", "resting"]),
        ({"text": "nothing"}, []),
        ({"only": "running"}, ["busy"]),
        ({"only": "paused"}, ["off", "resting"]),
        ({"only": "failing", "sort": "trouble", "down": True}, ["worse", "bad", "late", "aside"]),
        ({"sort": "next", "limit": 4}, ["busy", "new", "calm", "aside"]),
        ({"sort": "last", "down": True, "limit": 3}, ["calm", "late", "worse"]),
        ({"sort": "attention"}, ["aside", "bad", "late", "worse", "busy", "new", "calm", "off", "resting"]),
    ],
)
def test_pages(how: dict[str, Any], found: list[str]) -> None:
    assert names(**how) == found


def test_counts_are_of_all_jobs_whatever_is_shown() -> None:
    page = page_of(JOBS, text="bad", limit=1)
    assert (page.total, page.found) == (9, 1)
    assert page.counts == {"all": 9, "failing": 4, "running": 1, "paused": 2}

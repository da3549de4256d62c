"""One page of the list of jobs: found, filtered and ordered here, since a browser cannot hold all of thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from echosched.model import FAILURES, State
from echosched.protocols import Facts

_TROUBLED = frozenset(map(str, (*FAILURES, State.MISSED)))
_NEVER = "9999"


def is_troubled(job: Facts) -> bool:
    """Tell whether somebody should look at *job*: it is set aside, or its last run went wrong."""
    last = job.get("last_run")
    return bool(job.get("parked")) or (last is not None and last["state"] in _TROUBLED)


def _is_running(job: Facts) -> bool:
    last = job.get("last_run")
    return bool(job.get("running")) or (last is not None and last["state"] == "running")


def _is_paused(job: Facts) -> bool:
    return bool(job["paused"]) or not job["enabled"]


KINDS: dict[str, Callable[[Facts], bool]] = {
    "all": lambda job: True,
    "failing": is_troubled,
    "running": _is_running,
    "paused": _is_paused,
}
"""Which jobs a list can be narrowed to."""


def _attention(job: Facts) -> int:
    if is_troubled(job):
        return 0
    return 1 if job.get("running") else 3 if job["paused"] else 2


def _last(job: Facts) -> str:
    last = job.get("last_run")
    return "" if last is None else str(last.get("ended_at") or last.get("queued_at") or "")


def _trouble(job: Facts) -> tuple[bool, str]:
    """Return what puts the worst and latest trouble first, in descending order."""
    last = job.get("last_run") or {}
    return (not job.get("parked") and last.get("state") != "missed", _last(job))


SORTS: dict[str, Callable[[Facts], Any]] = {
    "name": lambda job: job["name"],
    "attention": _attention,
    "next": lambda job: job.get("next_at") or _NEVER,
    "last": _last,
    "trouble": _trouble,
}


@dataclass(frozen=True, slots=True)
class Page:
    """*jobs* are the page, *total* all jobs, *found* those that fit, *counts* how many of each of :data:`KINDS`."""

    jobs: list[Facts]
    total: int
    found: int
    counts: dict[str, int]


def page_of(
    jobs: Sequence[Facts],
    *,
    text: str | None = None,
    only: str = "all",
    sort: str = "name",
    down: bool = False,
    after: str | None = None,
    offset: int = 0,
    limit: int = 1000,
) -> Page:
    """Return *limit* of *jobs* from the *offset*-th on, or behind the name *after*, in the order *sort*.

    *text* must stand in a job's name, description or labels, whatever the case. Equal ones stand by next
    slot, then by name.
    """
    counts = {kind: sum(map(fits, jobs)) for kind, fits in KINDS.items()}
    fitting = list(_matching(filter(KINDS[only], jobs), text))
    if after is not None:
        fitting = [job for job in fitting if str(job["name"]) > after]
    fitting.sort(key=lambda job: (job.get("next_at") or _NEVER, job["name"]))
    fitting.sort(key=SORTS[sort], reverse=down)
    return Page(fitting[offset : offset + limit], len(jobs), len(fitting), counts)


def _matching(jobs: Iterable[Facts], text: str | None) -> Iterable[Facts]:
    wanted = (text or "").strip().casefold()
    if not wanted:
        return jobs
    return (
        job
        for job in jobs
        if wanted
        in f"{job['name']} {job.get('description', '')} {' '.join(job.get('labels', ()))}".casefold()
    )

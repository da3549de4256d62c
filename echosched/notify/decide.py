"""Which event makes which message. Pure: events and instants in, messages out; no clock, no I/O.

A job's condition goes ``well → unwell → well``. The first failure of a well job is told; those after it
are counted; the success that ends the condition is told with the count (``recovery``). ``missed``,
``abandoned`` and ``overdue`` are such conditions too, each told once. ``success`` and ``output`` have no
memory: each run is told.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from echosched import events
from echosched.clock import parse_rfc3339, rfc3339
from echosched.model import Job
from echosched.notify.message import Message

_CONDITIONS = ("failure", "missed", "abandoned", "overdue")
_HEALTHCHECK = "healthcheck:"
_USUAL_RUNS = 20
_USUAL_LEAST = 5
_SLOW_FACTOR = 3.0
_SLOW_MARGIN = timedelta(seconds=30)
OVERDUE_AFTER = timedelta(minutes=5)

Slot = Callable[[str], datetime | None]


class Target(Protocol):
    """As much of a ``[notify.NAME]`` as the decisions need."""

    @property
    def name(self) -> str:
        """Return NAME."""

    @property
    def kind(self) -> str:
        """Return the kind."""

    @property
    def on(self) -> tuple[str, ...]:
        """Return the occasions it wants."""

    @property
    def default(self) -> bool:
        """Tell whether jobs without a ``notify`` key use it."""


@dataclass(slots=True)
class Condition:
    """What has been wrong with a job: since when, and how often by occasion."""

    since: datetime
    counts: dict[str, int] = field(default_factory=dict)


class Decider:
    """Holds the conditions of jobs and turns events into messages. For one thread.

    *next_slot* is asked (only for jobs whose targets want ``overdue``) when the next slot is.
    :attr:`changes` grows whenever :meth:`memory` has become worth keeping again.
    """

    def __init__(
        self, targets: Iterable[Target], jobs: Mapping[str, Job], *, next_slot: Slot | None = None
    ) -> None:
        self._conditions: dict[str, Condition] = {}
        self._usual: dict[str, list[float]] = {}
        self._running: dict[int, datetime] = {}  # runs of jobs that may be told slow: when they began
        self._expected: dict[str, datetime] = {}
        self._due: list[tuple[datetime, str, str, int]] = []
        self._next_slot = next_slot
        self.changes = 0
        self.configure(targets, jobs)

    def configure(self, targets: Iterable[Target], jobs: Mapping[str, Job]) -> None:
        """Take a new configuration; conditions of jobs that are gone are forgotten, without a message."""
        self._targets = {target.name: target for target in targets}
        self._jobs = jobs
        for name in [name for name in self._conditions if name and name not in jobs]:
            del self._conditions[name]
        self._wanted = {occasion for target in self._targets.values() for occasion in target.on}
        self._watched = any(target.kind == "healthchecks" for target in self._targets.values()) or any(
            job.policy.healthcheck for job in jobs.values()
        )
        # What a run that begins, or succeeds, can be wanted for: nothing at all, mostly.
        self._start_matters = self._watched or not self._wanted.isdisjoint(("slow", "overdue"))
        self._success_matters = self._watched or not self._wanted.isdisjoint(("success", "output", "slow"))
        self._expected = {}
        self._due = [entry for entry in self._due if entry[1] == "slow"]
        heapq.heapify(self._due)

    def targets_of(self, job: str) -> list[Target]:
        """Return whom *job* tells: those it names, or all that are for everyone."""
        known = self._jobs.get(job)
        named = known.policy.notify if known is not None else None
        if named is None:
            return [target for target in self._targets.values() if target.default]
        return [self._targets[name] for name in named if name in self._targets]

    def see(self, event: events.Event) -> list[Message]:
        """Return the messages that *event* makes."""
        handle = _HANDLERS.get(event.event)
        found: list[Message] = [] if handle is None else handle(self, event)
        return found

    # ── conditions ────────────────────────────────────────────────────────────────────────────

    def _wrong(self, occasion: str, message: Message) -> list[Message]:
        """Note that something went wrong; it is told when it is new, else it is news for an unread message only."""
        told = self._to(occasion, message)
        if not any(self._wants_any(target) for target in self.targets_of(message.job)):
            return []
        condition = self._conditions.get(message.job)
        if condition is None:
            condition = self._conditions[message.job] = Condition(message.at)
        count = condition.counts.get(occasion, 0) + 1
        condition.counts[occasion] = count
        if count == 1:
            self.changes += 1
            return told
        return [replace(one, count=count, since=condition.since, again=True) for one in told]

    @staticmethod
    def _wants_any(target: Target) -> bool:
        return target.kind != "healthchecks" and any(occasion in target.on for occasion in _CONDITIONS)

    def _well(self, message: Message) -> list[Message]:
        """Note that the job is well; what was wrong is summed up for those who were told of it."""
        condition = self._conditions.pop(message.job, None)
        if condition is None:
            return []
        self.changes += 1
        told = []
        for target in self.targets_of(message.job):
            if target.kind == "healthchecks" or "recovery" not in target.on:
                continue
            if any(occasion in target.on for occasion in condition.counts):
                failures = condition.counts.get("failure", 0) + condition.counts.get("abandoned", 0)
                more: dict[str, Any] = {"count": failures, "since": condition.since, "why": _sum(condition)}
                told.append(replace(message, target=target.name, occasion="recovery", **more))
        return told

    def _to(self, occasion: str, message: Message) -> list[Message]:
        return [
            replace(message, target=target.name, occasion=occasion)
            for target in self.targets_of(message.job)
            if occasion in target.on and target.kind != "healthchecks"
        ]

    def _pings(self, occasion: str, message: Message) -> list[Message]:
        names = [target.name for target in self.targets_of(message.job) if target.kind == "healthchecks"]
        job = self._jobs.get(message.job)
        if job is not None and job.policy.healthcheck:
            names.append(_HEALTHCHECK + message.job)
        return [replace(message, target=name, occasion=occasion) for name in names]

    def _wants(self, occasion: str, job: str) -> bool:
        return occasion in self._wanted and any(occasion in target.on for target in self.targets_of(job))

    # ── events ────────────────────────────────────────────────────────────────────────────────

    def _run_start(self, event: events.RunStart) -> list[Message]:
        if not self._start_matters and event.job not in self._conditions:
            return []
        message = _of(event)
        if self._wants("slow", event.job):
            self._watch_slow(event)
        condition = self._conditions.get(event.job)
        told: list[Message] = []
        if condition is not None and "overdue" in condition.counts:
            # Begun at last. Whether it works again, its end will tell; alone, this is the recovery.
            if len(condition.counts) == 1:
                told = self._well(message)
            else:
                del condition.counts["overdue"]
        self._expected.pop(event.job, None)
        self._expect(event.job)
        return told + (self._pings("start", message) if event.attempt == 1 else [])

    def _run_end(self, event: events.RunEnd) -> list[Message]:
        quiet = event.state == "succeeded" and event.job not in self._conditions
        if quiet and not self._success_matters:
            return []
        message = _of(
            event, state=event.state, why=event.error, exit_code=event.exit_code, signal=event.signal,
            duration_seconds=event.duration_seconds, output_bytes=event.output_bytes,
        )  # fmt: skip
        watched = self._running.pop(event.run, None) is not None
        told: list[Message] = []
        if event.output_bytes:
            told += self._to("output", message)
        if event.state == "succeeded":
            if event.duration_seconds is not None and watched:
                self._learn(event.job, event.duration_seconds)
            told += self._well(message) + self._to("success", message)
        elif event.state in ("failed", "timed_out"):
            told += self._wrong("failure", message)
        elif event.state == "abandoned":
            told += self._wrong("abandoned", message)
        if event.state != "cancelled":
            told += self._pings("ended", message)
        return told

    def _missed(self, event: events.RunMissed) -> list[Message]:
        return self._wrong("missed", _of(event, state="missed", why=event.reason))

    def _parked(self, event: events.JobParked) -> list[Message]:
        return self._wrong(
            "failure", Message(target="", occasion="", job=event.job, at=event.ts, why=event.reason)
        )

    def _degraded(self, event: events.StoreDegraded) -> list[Message]:
        why = f"records cannot be written: {event.reason}"
        return self._wrong("failure", Message(target="", occasion="", job="", at=event.ts, why=why))

    def _recovered(self, event: events.StoreRecovered) -> list[Message]:
        return self._well(Message(target="", occasion="", job="", at=event.ts))

    def _begin(self, event: events.Event) -> list[Message]:
        if "overdue" in self._wanted:
            for name in self._jobs:
                self._expect(name)
        return []

    def _resumed(self, event: events.JobResumed) -> list[Message]:
        self._expect(event.job)
        return []

    def _set_aside(self, event: events.JobPaused) -> list[Message]:
        self._expected.pop(event.job, None)
        return []

    # ── deadlines: slow, overdue ──────────────────────────────────────────────────────────────

    def next_due(self) -> datetime | None:
        """Return when :meth:`due` wants to be called next."""
        return self._due[0][0] if self._due else None

    def due(self, now: datetime) -> list[Message]:
        """Return the messages that the passing of time makes until *now*."""
        told: list[Message] = []
        while self._due and self._due[0][0] <= now:
            at, kind, job, run = heapq.heappop(self._due)
            if kind == "slow":
                told += self._is_slow(at, job, run)
            else:
                told += self._is_overdue(at, job)
        return told

    def _watch_slow(self, event: events.RunStart) -> None:
        self._running[event.run] = event.ts
        limit = self.slow_limit(event.job)
        if limit is not None:
            heapq.heappush(self._due, (event.ts + limit, "slow", event.job, event.run))

    def slow_limit(self, job: str) -> timedelta | None:
        """Return how long a run of *job* may take before it counts as slow; ``None`` while too little is known."""
        usual = sorted(self._usual.get(job, ()))
        if len(usual) < _USUAL_LEAST:
            return None
        median = timedelta(seconds=usual[len(usual) // 2])
        return max(median * _SLOW_FACTOR, median + _SLOW_MARGIN)

    def _learn(self, job: str, seconds: float) -> None:
        usual = self._usual.setdefault(job, [])
        usual.append(round(seconds, 3))
        del usual[:-_USUAL_RUNS]

    def _is_slow(self, at: datetime, job: str, run: int) -> list[Message]:
        began = self._running.get(run)
        if began is None:
            return []
        usual = sorted(self._usual.get(job, ()))
        why = f"running since {rfc3339(began)}; usually {usual[len(usual) // 2]:.1f} s" if usual else None
        return self._to(
            "slow", Message(target="", occasion="", job=job, at=at, run=run, state="running", why=why)
        )

    def _expect(self, name: str) -> None:
        job = self._jobs.get(name)
        if job is None or self._next_slot is None or not job.enabled or name in self._expected:
            return
        if not self._wants("overdue", name):
            return
        slot = self._next_slot(name)
        if slot is not None:
            self._expected[name] = slot
            heapq.heappush(self._due, (slot + job.policy.jitter + OVERDUE_AFTER, "overdue", name, 0))

    def _is_overdue(self, at: datetime, job: str) -> list[Message]:
        slot = self._expected.get(job)
        known = self._jobs.get(job)
        if slot is None or known is None or slot + known.policy.jitter + OVERDUE_AFTER > at:
            return []
        del self._expected[job]
        self._expect(job)
        why = f"due at {rfc3339(slot)}, and no run has begun since"
        return self._wrong("overdue", Message(target="", occasion="", job=job, at=at, slot=slot, why=why))

    # ── memory ────────────────────────────────────────────────────────────────────────────────

    def memory(self) -> dict[str, Any]:
        """Return what a restart must not forget, as JSON."""
        return {
            "conditions": {
                job: {"since": rfc3339(condition.since), "counts": dict(condition.counts)}
                for job, condition in self._conditions.items()
            },
            "usual": {job: list(usual) for job, usual in self._usual.items()},
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what :meth:`memory` returned; what is not understood is left out."""
        for job, kept in memory.get("conditions", {}).items():
            if not job or job in self._jobs:
                counts = {
                    str(name): int(count) for name, count in kept["counts"].items() if name in _CONDITIONS
                }
                self._conditions.setdefault(job, Condition(parse_rfc3339(kept["since"]), counts))
        for job, usual in memory.get("usual", {}).items():
            if job in self._jobs:
                self._usual.setdefault(job, [float(seconds) for seconds in usual][-_USUAL_RUNS:])


def healthcheck_job(target: str) -> str | None:
    """Return the job whose own ``healthcheck`` *target* stands for, ``None`` for a ``[notify.NAME]``."""
    return target.removeprefix(_HEALTHCHECK) if target.startswith(_HEALTHCHECK) else None


def _of(event: events.RunEvent, **more: Any) -> Message:
    return Message(
        target="", occasion="", job=event.job, at=event.ts, run=event.run, attempt=event.attempt, slot=event.slot,
        trigger=event.trigger, **more,
    )  # fmt: skip


def _sum(condition: Condition) -> str:
    words = {"failure": "failed", "missed": "missed slots", "abandoned": "abandoned", "overdue": "overdue"}
    return "before: " + ", ".join(
        f"{words[name]} {count} times" if count > 1 else f"{words[name]} once"
        for name, count in condition.counts.items()
    )


_HANDLERS: Mapping[str, Any] = {
    "ready": Decider._begin,
    "reload": Decider._begin,
    "run_start": Decider._run_start,
    "run_end": Decider._run_end,
    "run_missed": Decider._missed,
    "job_parked": Decider._parked,
    "job_paused": Decider._set_aside,
    "job_resumed": Decider._resumed,
    "store_degraded": Decider._degraded,
    "store_recovered": Decider._recovered,
}

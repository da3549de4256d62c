"""Every operator verb, once: what the command line, the control socket and the web API all call.

An operation takes and returns plain JSON values (instants as RFC 3339 text) and raises
``EchoschedError``. It runs in the worker, on its loop, and must not keep that waiting.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from echosched.clock import parse_rfc3339, rfc3339
from echosched.errors import NotFound, UsageError
from echosched.model import (
    Action,
    BuiltinAction,
    CallableAction,
    CommandAction,
    HttpAction,
    Job,
    PythonAction,
    Run,
    State,
    Trigger,
)
from echosched.scheduler import Entry, Scheduler

if TYPE_CHECKING:
    from echosched.schedule import Timetable

OUTPUT_CHUNK = 64 * 1024
FOLLOW_SECONDS = 0.2
RECENT = 20
"""How many of a job's latest runs tell its usual duration."""

MAX_ROWS = 10_000
MAX_SLOTS = 100_000

Reloader = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
OutputPath = Callable[[int, int], str | None]
Redact = Callable[[str], str]


class Operations:
    """The verbs over one running scheduler.

    *reload* re-reads the configuration and returns what changed; *journal_path* is where ``follow``
    reads; *facts* adds what only the composition root knows to :meth:`status`; *metrics* answers the
    metrics snapshot.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        output_path: OutputPath,
        reload: Reloader,
        journal_path: str,
        facts: Callable[[], dict[str, Any]] = dict,
        metrics: Callable[[], dict[str, Any]] = dict,
        redact: Redact = lambda text: text,
    ) -> None:
        self._scheduler = scheduler
        self._output_path = output_path
        self._reload = reload
        self._journal_path = journal_path
        self._facts = facts
        self._metrics = metrics
        self._redact = redact

    def find(self, op: str) -> Callable[..., Any]:
        """Return the operation named *op*; raises ``UsageError`` with the nearest name."""
        if op in OPERATIONS:
            method: Callable[..., Any] = getattr(self, op)
            return method
        import difflib

        near = difflib.get_close_matches(op, OPERATIONS, 1)
        raise UsageError(
            f"{op}: there is no such operation" + (f" (did you mean {near[0]}?)" if near else "")
        )

    # ── the daemon ────────────────────────────────────────────────────────────────────────────

    async def status(self) -> dict[str, Any]:
        """Return the worker's part of ``status --json``: jobs, runs, next, and what *facts* adds."""
        roster, runs = self._scheduler.roster, self._scheduler.runs
        counts = {str(state): count for state, count in (await self._scheduler.store.counts()).items()}
        running = len(runs.running())
        counts["running"] = running
        counts["queued"] = len(runs.live) - running
        entries = roster.entries.values()
        document: dict[str, Any] = {
            "jobs": {
                "total": len(entries),
                "paused": sum(entry.paused for entry in entries),
                "parked": sum(entry.parked is not None for entry in entries),
            },
            "runs": {str(state): counts.get(str(state), 0) for state in State},
            "next": [{"job": job, "at": rfc3339(at)} for job, at in roster.next_slots(10)],
        }
        document.update(self._facts())
        return document

    async def running(self) -> list[dict[str, Any]]:
        """Return the runs with an attempt under way, oldest first: what a stop waits for."""
        return [{"job": live.job.name, **self._live_row(live)} for live in self._scheduler.runs.running()]

    async def daylight(self) -> dict[str, Any]:
        """Return how many jobs meet a daylight-saving change within a year."""
        from echosched.config.daylight import count_daylight

        jobs = [entry.job for entry in self._scheduler.roster.entries.values()]
        return {"jobs": await asyncio.to_thread(count_daylight, jobs, self._scheduler.clock.now())}

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; raises ``ConfigError`` and changes nothing when it is wrong."""
        return dict(await self._reload())

    async def metrics(self) -> dict[str, Any]:
        """Return the metrics snapshot."""
        return self._metrics()

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────

    async def jobs(self, details: bool = True) -> list[dict[str, Any]]:
        """Return all jobs, as ``jobs --json`` has them; *details* adds what the dashboard shows."""
        entries = list(self._scheduler.roster.entries.values())
        return [await self._job(entry, details=details and len(entries) <= 500) for entry in entries]

    async def job(self, job: str) -> dict[str, Any]:
        """Return one job with all details."""
        return await self._job(self._scheduler.roster.entry(job), details=True)

    async def _job(self, entry: Entry, *, details: bool) -> dict[str, Any]:
        job = entry.job
        last = None if entry.last_run is None else await self._scheduler.store.get_run(entry.last_run)
        document: dict[str, Any] = {
            "name": job.name,
            "description": job.description,
            "schedule": job.schedule_text,
            "timezone": job.timezone,
            "enabled": job.enabled,
            "paused": entry.paused,
            "parked": entry.parked,
            "next_at": None if entry.slot is None else rfc3339(entry.slot),
            "last_run": None if last is None else last.as_dict(),
        }
        if details:
            document |= self._describe(job)
            recent = await self._scheduler.store.history(job=job.name, limit=RECENT)
            document["recent"] = [
                {"run": run.run, "state": str(run.state), "duration_seconds": run.duration_seconds}
                for run in reversed(recent)
            ]
            document["usual_duration_seconds"] = usual_duration(recent)
            document["running"] = [self._live_row(live) for live in entry.active.values()]
        return document

    def _describe(self, job: Job) -> dict[str, Any]:
        from echosched.schedule import explain

        policy = job.policy
        after = None if job.after is None else {"job": job.after.job, "when": str(job.after.when)}
        return {
            "schedule_english": explain(cast("Timetable", job.schedule)) if job.schedule is not None else "",
            "after": after,
            "kind": _kind(job.action),
            "action": self._redact(_summary(job.action)),
            "labels": list(policy.labels),
            "policy": {
                "timeout_seconds": None if policy.timeout is None else policy.timeout.total_seconds(),
                "retries": policy.retries,
                "overlap": str(policy.overlap),
                "catchup": str(policy.catchup),
                "on_abandoned": str(policy.on_abandoned),
                "priority": policy.priority,
                "concurrency_group": policy.concurrency_group,
                "heal": policy.heal,
            },
        }

    def _live_row(self, live: Any) -> dict[str, Any]:
        return {
            "run": live.run,
            "state": str(State.RUNNING if live.running else State.QUEUED),
            "attempt": live.attempt,
            "trigger": str(live.trigger),
            "slot": None if live.slot is None else rfc3339(live.slot),
            "started_at": None if live.started_at is None else rfc3339(live.started_at),
        }

    async def next(self, job: str | None = None, n: int = 10) -> list[dict[str, Any]]:
        """Return the *n* coming slots, of *job* or of all jobs, as ``{job, at, local}``."""
        n = _bounded("n", n, MAX_SLOTS)
        now = self._scheduler.clock.now()
        if job is not None:
            entry = self._scheduler.roster.entry(job)
            return [_slot(entry.job, at) for at in _slots(entry, now, n=n)]
        import heapq

        entries = self._scheduler.roster.entries
        soonest = self._scheduler.roster.next_slots(n)
        streams = ([(at, name) for at in _slots(entries[name], now, n=n)] for name, _ in soonest)
        merged = heapq.nsmallest(n, (pair for stream in streams for pair in stream))
        return [_slot(entries[name].job, at) for at, name in merged]

    async def pause(self, job: str) -> dict[str, Any]:
        """Let no slot of *job* come due until it is resumed."""
        return {"job": job, "changed": await self._scheduler.roster.pause(job)}

    async def resume(self, job: str) -> dict[str, Any]:
        """Let slots of *job* come due again, from now on."""
        return {"job": job, "changed": await self._scheduler.roster.resume(job)}

    async def trigger(self, job: str) -> dict[str, Any]:
        """Make a run of *job* now; returns its number."""
        return {"run": await self._scheduler.trigger(job, Trigger.MANUAL)}

    # ── runs ──────────────────────────────────────────────────────────────────────────────────

    async def history(
        self,
        job: str | None = None,
        n: int = 50,
        states: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
        before_run: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return the newest *n* runs, newest first, as ``history --json`` has them."""
        runs = await self._scheduler.store.history(
            job=job,
            states=[_state(text) for text in states],
            since=_instant("since", since),
            until=_instant("until", until),
            before_run=before_run,
            limit=_bounded("n", n, MAX_ROWS),
        )
        return [self._row(run) for run in runs]

    def _row(self, run: Run) -> dict[str, Any]:
        row = run.as_dict()
        # The right to start is written ahead of the start: until then people should read "queued".
        if run.state is State.RUNNING and run.started_at is None:
            live = self._scheduler.runs.live.get(run.run)
            if live is None or not live.running:
                row["state"] = str(State.QUEUED)
        return row

    async def run(self, run: int) -> dict[str, Any]:
        """Return one run with its earlier attempts."""
        found = await self._find_run(run)
        row = self._row(found)
        row["attempts"] = [dict(attempt) for attempt in found.attempts]
        row["pid"] = None if found.process is None or found.state.is_outcome else found.process.pid
        recent = await self._scheduler.store.history(job=found.job, states=[State.SUCCEEDED], limit=RECENT)
        row["usual_duration_seconds"] = usual_duration(recent)
        return row

    async def _find_run(self, run: int) -> Run:
        found = await self._scheduler.store.get_run(_number("run", run))
        if found is None:
            raise NotFound(f"run {run}: there is no such run (echoschedd history lists them)")
        return found

    async def wait(self, run: int, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Return the run when it has ended, or as it stands after *timeout_seconds*."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return self._row(await self._scheduler.runs.wait(run))
        except TimeoutError:
            return self._row(await self._find_run(run))

    async def cancel(self, run: int) -> dict[str, Any]:
        """End a queued or running run."""
        found = await self._find_run(run)
        self._scheduler.runs.cancel(found.run, "cancelled by the operator")
        return {"run": found.run, "job": found.job}

    async def output(
        self, run: int, attempt: int | None = None, offset: int = 0, limit: int = OUTPUT_CHUNK
    ) -> dict[str, Any]:
        """Return a piece of a run's output from byte *offset* (negative: from the end).

        *text* is UTF-8 with anything else replaced; *next_offset* is where to go on; *done* tells that the
        attempt has ended and all was read.
        """
        found = await self._find_run(run)
        number = found.attempt if attempt is None else attempt
        ended = found.state.is_outcome or number < found.attempt
        path = self._output_path(found.run, number)
        limit = _bounded("limit", limit, 16 * 1024 * 1024)
        data, start, size = await asyncio.to_thread(_read_piece, path, offset, limit)
        if not ended or start + len(data) < size:
            data = _whole_characters(data)
        return {
            "run": found.run,
            "attempt": number,
            "text": self._redact(data.decode("utf-8", "replace")),
            "offset": start,
            "next_offset": start + len(data),
            "size": size,
            "done": ended and start + len(data) >= size,
        }

    async def follow_output(
        self, run: int, attempt: int | None = None, offset: int = 0, onward: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield pieces of a run's output as it grows, until the run has ended.

        Without *attempt* it begins with the present one and goes on to those that follow; with one it stays
        there, unless *onward*.
        """
        onward = onward or attempt is None
        while True:
            piece = await self.output(run, attempt, offset)
            attempt = piece["attempt"]
            if piece["done"] and onward and attempt < (await self._find_run(run)).attempt:
                # Done with this attempt, but a retry has begun: the reader wants that, too.
                yield {**piece, "done": False}
                attempt, offset = attempt + 1, 0
                continue
            if piece["text"] or piece["done"]:
                yield piece
            if piece["done"]:
                return
            if piece["next_offset"] == offset:
                await asyncio.sleep(FOLLOW_SECONDS)
            offset = piece["next_offset"]

    # ── views ─────────────────────────────────────────────────────────────────────────────────

    async def timeline(self, start: str, end: str, limit: int = 5000) -> dict[str, Any]:
        """Return the runs that were queued between *start* and *end*, and the slots to come in that time."""
        begin, finish = _required("start", start), _required("end", end)
        limit = _bounded("limit", limit, MAX_ROWS)
        now = self._scheduler.clock.now()
        runs = await self._scheduler.store.history(since=begin, until=finish, limit=limit)
        coming: list[dict[str, Any]] = []
        for entry in self._scheduler.roster.entries.values():
            if len(coming) >= limit:
                break
            coming += [_slot(entry.job, at) for at in _slots(entry, max(now, begin), until=finish, n=200)]
        coming.sort(key=lambda slot: str(slot["at"]))
        return {"now": rfc3339(now), "runs": [self._row(run) for run in runs], "next": coming[:limit]}

    async def simulate(self, start: str, end: str, job: str | None = None) -> list[dict[str, Any]]:
        """Return every slot between two instants, of *job* or of all jobs in force, in order."""
        begin, finish = _required("start", start), _required("end", end)
        entries = self._scheduler.roster.entries
        wanted = list(entries.values()) if job is None else [self._scheduler.roster.entry(job)]
        return simulate([(entry.job, entry.schedule) for entry in wanted], begin, finish)

    async def follow(self, after: str | None = None, last: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Yield journal events with an ``id``: those behind *after*, or the *last* ones, then every new one."""
        from echosched.journal import afollow, parse

        async for position, text in afollow(self._journal_path, last=last, position=after):
            event = parse(text)
            if event is not None:
                yield {"id": position, "event": event}


OPERATIONS = frozenset(name for name in vars(Operations) if not name.startswith("_") and name != "find")


def simulate(
    jobs: Sequence[tuple[Job, Any]], start: datetime, end: datetime, *, limit: int = MAX_SLOTS
) -> list[dict[str, Any]]:
    """Return every slot of *jobs* (with their schedules) from *start* (included) to *end* (excluded), in order."""
    if end < start:
        raise UsageError(f"simulate: {rfc3339(end)} lies before {rfc3339(start)}")
    found: list[tuple[datetime, str, Job]] = []
    for job, schedule in jobs:
        if schedule is None or not job.enabled:
            continue
        if getattr(schedule, "needs_anchor", False):
            schedule = schedule.with_anchor(start)
        slot = schedule.next_after(start - timedelta(microseconds=1))
        while slot is not None and slot < end:
            found.append((slot, job.name, job))
            if len(found) > limit:
                raise UsageError(f"simulate: more than {limit} slots (choose a shorter period or one job)")
            slot = schedule.next_after(slot)
    found.sort(key=lambda item: item[:2])
    return [_slot(job, at) for at, _, job in found]


def usual_duration(runs: Sequence[Run]) -> float | None:
    """Return the median duration in seconds of the succeeded ones among *runs*, ``None`` without any."""
    durations = sorted(
        run.duration_seconds
        for run in runs
        if run.state is State.SUCCEEDED and run.duration_seconds is not None
    )
    return durations[len(durations) // 2] if durations else None


def _slots(entry: Entry, after: datetime, *, n: int, until: datetime | None = None) -> list[datetime]:
    if not entry.waits or entry.schedule is None:
        return []
    found: list[datetime] = []
    slot = entry.schedule.next_after(after)
    while slot is not None and len(found) < n and (until is None or slot < until):
        found.append(slot)
        slot = entry.schedule.next_after(slot)
    return found


def _slot(job: Job, at: datetime) -> dict[str, Any]:
    return {"job": job.name, "at": rfc3339(at), "local": at.astimezone(ZoneInfo(job.timezone)).isoformat()}


def _kind(action: Action) -> str:
    kinds = {
        CommandAction: "command",
        HttpAction: "http",
        PythonAction: "python",
        BuiltinAction: "builtin",
        CallableAction: "callable",
    }
    return kinds[type(action)]


def _summary(action: Action) -> str:
    match action:
        case CommandAction(command=str() as text):
            return text
        case CommandAction(command=argv):
            import shlex

            return shlex.join(argv)
        case HttpAction(method=method, url=url):
            return f"{method} {url}"
        case PythonAction(target=target):
            return target
        case BuiltinAction(name=name):
            return name
        case CallableAction(function=function):
            return getattr(function, "__qualname__", repr(function))


def _read_piece(path: str | None, offset: int, limit: int) -> tuple[bytes, int, int]:
    """Return the bytes, where they begin, and the file's size; nothing for a file that does not exist."""
    if path is None:
        return b"", 0, 0
    try:
        with open(path, "rb", opener=_no_links) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            start = max(size + offset, 0) if offset < 0 else min(offset, size)
            if start >= size:
                return b"", start, size
            # A job past its output_limit has a hole in the middle of its file: it is stepped over.
            start = os.lseek(descriptor, start, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            return os.pread(descriptor, min(limit, end - start), start), start, size
    except FileNotFoundError:
        return b"", 0, 0
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but hole to the end
            return b"", size, size
        if error.errno == errno.ELOOP:  # the bar in place of an output that never was
            return b"", 0, 0
        raise


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _whole_characters(data: bytes) -> bytes:
    """Leave an unfinished UTF-8 character at the end for the next piece."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # a continuation byte: the character began earlier
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back and len(data) > back else data
    return data


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise UsageError(f"state {text}: unknown (one of {', '.join(State)})") from None


def _instant(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    return _required(name, text)


def _required(name: str, text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name}: {error} (an instant such as 2026-01-31T09:00:00Z)") from None


def _number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name}: {value!r} is not a whole number")
    return value


def _bounded(name: str, value: Any, most: int) -> int:
    number = _number(name, value)
    if not 0 <= number <= most:
        raise UsageError(f"{name}: {number} is out of range (0 to {most})")
    return number

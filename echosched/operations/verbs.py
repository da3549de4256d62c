"""Every operator verb, once: what the command line, the control socket and the web API all call.

An operation takes and returns plain JSON values (instants as RFC 3339 text) and raises
``EchoschedError``. It runs in the worker, on its loop, and must not keep that waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from echosched.clock import rfc3339
from echosched.errors import NotFound, UsageError
from echosched.model import Run, State, Trigger
from echosched.operations.arguments import bounded, history_query, whole_number
from echosched.operations.cluster import ClusterOperations, Membership
from echosched.operations.description import RECENT, describe, recent_runs, run_details
from echosched.operations.pieces import OUTPUT_CHUNK, read_piece, whole_characters
from echosched.operations.selection import rows_matching
from echosched.operations.slots import MAX_SLOTS, slot_row, slots_of
from echosched.operations.views import Views, live_row
from echosched.scheduler import Entry, Scheduler

FOLLOW_SECONDS = 0.2
MAX_RECENT = 500

Reloader = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
OutputPath = Callable[[int, int], str | None]
Redact = Callable[[str], str]


class Operations(Views, ClusterOperations):
    """The verbs over one running scheduler.

    *reload* re-reads the configuration and returns what changed; *journal_path* is where ``follow``
    reads; *facts* adds what only the composition root knows to :meth:`status`; *metrics* answers the
    metrics snapshot; *membership* is this host's part in a cluster, if it has one.
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
        membership: Membership | None = None,
    ) -> None:
        ClusterOperations.__init__(self, membership)
        self._scheduler = scheduler
        self._output_path = output_path
        self._reload = reload
        self._journal_path = journal_path
        self._facts = facts
        self._metrics = metrics
        self._redact = redact
        Views.__init__(self, scheduler)

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
        if self._membership is None:  # memory knows better what is about to start; of others it knows nothing
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
            # Whoever only reads need not ask: history comes from there without costing the loop anything.
            "store_file": getattr(self._scheduler.store, "readable_file", None),
        }
        document["cluster"] = await self._cluster_in_short()
        document.update(self._facts())
        return document

    async def running(self) -> list[dict[str, Any]]:
        """Return the runs with an attempt under way, oldest first: what a stop waits for."""
        return [{"job": live.job.name, **live_row(live)} for live in self._scheduler.runs.running()]

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
            document |= describe(job, self._redact)
            recent = await self._scheduler.store.history(job=job.name, limit=RECENT)
            document |= recent_runs(recent)
            document["running"] = [live_row(live) for live in entry.active.values()]
        return document

    async def recent(self, jobs: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what the latest runs of each of *jobs* were like, by job."""
        history = self._scheduler.store.history
        return {job: recent_runs(await history(job=job, limit=RECENT)) for job in jobs[:MAX_RECENT]}

    async def next(self, job: str | None = None, n: int = 10) -> list[dict[str, Any]]:
        """Return the *n* coming slots, of *job* or of all jobs, as ``{job, at, local}``."""
        n = bounded("n", n, MAX_SLOTS)
        now = self._scheduler.clock.now()
        if job is not None:
            entry = self._scheduler.roster.entry(job)
            return [slot_row(entry.job, at) for at in slots_of(entry, now, n=n)]
        import heapq

        entries = self._scheduler.roster.entries
        soonest = self._scheduler.roster.next_slots(n)
        streams = ([(at, name) for at in slots_of(entries[name], now, n=n)] for name, _ in soonest)
        merged = heapq.nsmallest(n, (pair for stream in streams for pair in stream))
        return [slot_row(entries[name].job, at) for at, name in merged]

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
        """Return the newest *n* runs, newest first, as ``history --json`` has them.

        Raises ``NotFound`` for a *job* that neither is defined nor ever ran.
        """
        query = history_query(job, n, states, since, until, before_run)
        rows = await rows_matching(query, self._scheduler.store.history, self._rows)
        if job is not None and not rows:
            await self._must_be_known(job)
        return rows

    async def _rows(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        return [self._row(run) for run in runs]

    async def _must_be_known(self, job: str) -> None:
        """Raise ``NotFound`` for a job that neither is defined nor ever ran: most likely its name is mistyped."""
        if job not in self._scheduler.roster.entries and not await self._scheduler.store.history(
            job=job, limit=1
        ):
            self._scheduler.roster.entry(job)

    async def run(self, run: int) -> dict[str, Any]:
        """Return one run with its earlier attempts."""
        found = await self._find_run(run)
        before = await self._scheduler.store.history(job=found.job, states=[State.SUCCEEDED], limit=RECENT)
        return {**self._row(found), **run_details(found, before)}

    async def _find_run(self, run: int) -> Run:
        found = await self._scheduler.store.get_run(whole_number("run", run))
        if found is None:
            raise NotFound(f"run {run}: there is no such run (echoschedd history lists them)")
        return found

    async def wait(self, run: int, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Return the run when it has ended, or as it stands after *timeout_seconds*."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return self._row(await self._scheduler.wait(run))
        except TimeoutError:
            return self._row(await self._find_run(run))

    async def cancel(self, run: int) -> dict[str, Any]:
        """End a queued or running run."""
        found = await self._find_run(run)
        await self._scheduler.cancel(found.run, "cancelled by the operator")
        return {"run": found.run, "job": found.job}

    async def output(
        self, run: int, attempt: int | None = None, offset: int = 0, limit: int = OUTPUT_CHUNK
    ) -> dict[str, Any]:
        """Return a piece of a run's output from byte *offset* (negative: from the end).

        *text* is UTF-8 with anything else replaced; *next_offset* is where to go on; *done* tells that the
        attempt has ended and all was read; *elsewhere* names the instance that has the output, if not this one.
        """
        found = await self._find_run(run)
        number = found.attempt if attempt is None else whole_number("attempt", attempt)
        if not 1 <= number <= found.attempt:
            had = "one attempt" if found.attempt == 1 else f"{found.attempt} attempts"
            raise NotFound(f"run {found.run}: there is no attempt {number} (it has had {had})")
        ended = found.state.is_outcome or number < found.attempt
        path = self._output_path(found.run, number)
        limit = bounded("limit", limit, 16 * 1024 * 1024)
        data, start, size = await asyncio.to_thread(read_piece, path, offset, limit)
        if not ended or start + len(data) < size:
            data = whole_characters(data)
        return {
            "run": found.run,
            "attempt": number,
            "text": self._redact(data.decode("utf-8", "replace")),
            "offset": start,
            "next_offset": start + len(data),
            "size": size,
            "done": ended and start + len(data) >= size,
            "elsewhere": None if size else self._elsewhere(found),
        }

    def _elsewhere(self, run: Run) -> str | None:
        """Return the instance that ran *run* and has its output, if it is another one."""
        if self._membership is None or run.owner == self._membership.instance or run.started_at is None:
            return None
        return run.owner

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


OPERATIONS = frozenset(
    name
    for home in (Operations, Views, ClusterOperations)
    for name in vars(home)
    if not name.startswith("_") and name != "find"
)

"""A store that never stops the scheduler: while its database fails, it answers from memory.

In bad times (:mod:`echosched.store.badtimes`) claims are answered from memory (each slot once in this
worker's life, and never one that the database can still be read to have), ends and starts are kept, and a
task tries to write what is missing. A crash in bad times loses what memory held: the next worker learns
from *on_degraded* (kept in the beat file) when they began, and accounts for the slots since then as
abandoned. A damaged file is set aside under a dated name and a fresh database is begun with what memory
knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from echosched.errors import StoreError
from echosched.model import Claim, Ended, JobRecord, Pruned, Run, Started, State
from echosched.store.badtimes import HANG_SECONDS, BadTimes
from echosched.store.faults import CommitUnclear
from echosched.store.ledger import Ledger

if TYPE_CHECKING:
    from echosched.protocols import Clock, EventSink
    from echosched.store.durable import DurableStore


class ResilientStore:
    """A :class:`~echosched.protocols.Store` around one that may fail.

    *sink* gets ``StoreDegraded`` and ``StoreRecovered``. *on_degraded* is called with the instant since when
    slots may be known to memory alone (a little before bad times began; earlier once older slots are caught up
    in them) and with ``None`` when they end. *jobs* gives the scheduler's present job records, for a fresh
    database after damage; without it the records seen here are kept. *highest_trace* gives the highest run
    number that left traces elsewhere (output files): numbers up to it are never given out again, even if a
    crash took the memory of them. With *lenient* the store opens although it cannot be written (a worker
    restarted while the disk is full); otherwise ``open`` raises. *retry_seconds* bounds the back-off. A disk that
    answers no write for *hang_seconds* counts as failing.
    """

    def __init__(
        self,
        inner: DurableStore,
        clock: Clock,
        sink: EventSink,
        *,
        on_degraded: Callable[[datetime | None], None] = lambda since: None,
        jobs: Callable[[], Iterable[JobRecord]] | None = None,
        highest_trace: Callable[[], int] = lambda: 0,
        lenient: bool = False,
        retry_seconds: tuple[float, float] = (0.25, 15.0),
        hang_seconds: float = HANG_SECONDS,
        most_runs: int = 20_000,
        most_slots: int = 200_000,
    ) -> None:
        self._inner = inner
        self._ledger = Ledger(inner.owner, most_runs=most_runs, most_slots=most_slots)
        self._jobs = jobs
        self._job_records: dict[str, JobRecord] = {}
        self._seen_notes: dict[str, str] = {}
        self._highest_trace = highest_trace
        self._lenient = lenient
        self._times = BadTimes(
            inner,
            self._ledger,
            clock,
            sink,
            on_degraded=on_degraded,
            records=jobs if jobs is not None else self._job_records.values,
            notes=lambda: self._seen_notes,
            retry_seconds=retry_seconds,
            hang_seconds=hang_seconds,
        )

    @property
    def degraded_since(self) -> datetime | None:
        """Return since when the database cannot be used, ``None`` while it can."""
        return self._times.since

    @property
    def reason(self) -> str | None:
        """Return why it cannot, in a line for the operator."""
        return self._times.reason

    @property
    def readable_file(self) -> str | None:
        """Return the file in which others may read what is true now; ``None`` while memory knows better."""
        path = getattr(self._inner, "path", None)
        return str(path) if path is not None and self._times.are_over else None

    async def open(self) -> None:
        """Open the inner store. A damaged file is set aside at once; see *lenient* for other faults."""
        await self._times.open(self._highest_trace(), lenient=self._lenient)

    async def close(self) -> None:
        """Write what memory holds, if that can be done now, and close."""
        await self._times.close()

    # ── writes ────────────────────────────────────────────────────────────────────────────────

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        """Account for slots, durably where the database can be written, else in memory."""
        while True:
            await self._times.gate.wait()
            if self._times.are_over:
                numbers = await self._try_claim(claims)
                if numbers is not None:
                    return numbers
                continue
            taken = await self._known_slots(claims)
            if not self._times.are_over and self._times.gate.is_set():
                self._times.took(claims)
                return self._ledger.claim(claims, taken)

    async def _try_claim(self, claims: Sequence[Claim]) -> list[int | None] | None:
        async def fly() -> list[int | None] | None:
            self._times.claims_under_way += len(claims)
            try:
                numbers = await self._times.attempt(call)
                if numbers is not None:
                    self._ledger.saw_claims(claims, numbers)
            finally:
                self._times.claims_under_way -= len(claims)
            return await self._settle(claims, unclear[0]) if unclear else numbers

        unclear: list[list[int | None]] = []

        async def call() -> list[int | None]:
            try:
                return await self._inner.claim(claims)
            except CommitUnclear as error:
                unclear.append(error.answer)
                raise

        # Shielded: a caller who gives up must not keep memory from learning which numbers were used.
        return await asyncio.shield(asyncio.ensure_future(fly()))

    async def _settle(self, claims: Sequence[Claim], numbers: list[int | None]) -> list[int | None] | None:
        """Take claims into memory whose commit failed, but may be found whole: as if it had gone well.

        Asked again, the database could answer that their slots are accounted for, by nobody but us.
        """
        with self._times.settling():
            self._ledger.doubt(numbers)
            await self._times.gate.wait()
            self._times.took(claims)
            return self._ledger.claim_as(claims, numbers)

    async def _known_slots(self, claims: Sequence[Claim]) -> set[tuple[str, datetime]] | None:
        slots = [(claim.job, claim.slot) for claim in claims if claim.slot is not None]
        return await self._times.try_read(lambda: self._inner.known_slots(slots)) if slots else set()

    async def starting(self, runs: Sequence[int]) -> None:
        """Turn QUEUED runs to RUNNING."""
        await self._times.gate.wait()
        if self._times.are_over:
            done = await self._times.attempt(lambda: _yes(self._inner.starting(runs)))
            if done:
                self._ledger.saw_starting(runs)
                return
            await self._times.gate.wait()
        self._ledger.starting(runs)

    def started(self, starts: Sequence[Started]) -> None:
        """Note when attempts began."""
        if self._times.are_over:
            self._ledger.saw_starts(starts)
            self._inner.started(starts)
        else:
            self._ledger.started(starts)

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends, durably where the database can be written, else in memory."""
        while True:
            await self._times.gate.wait()
            if self._times.are_over:
                recorded = await self._try_finish(ends)
                if recorded is not None:
                    return recorded
                continue
            for end in ends:
                if self._ledger.get_run(end.run) is None:
                    await self._learn_of(end.run)
            if not self._times.are_over and self._times.gate.is_set():
                return self._ledger.finish(ends)

    async def _learn_of(self, run: int) -> None:
        found = await self._times.try_read(lambda: self._inner.get_run(run))
        if found is not None and not found.state.is_outcome:
            self._ledger.saw_active([found])

    async def _try_finish(self, ends: Sequence[Ended]) -> list[bool] | None:
        async def fly() -> list[bool] | None:
            recorded = await self._times.attempt(lambda: self._inner.finish(ends))
            if recorded is not None:
                self._ledger.saw_ends(ends, recorded)
            elif all(self._ledger.get_run(end.run) is not None for end in ends):
                # At once: the commit that failed may be found whole, and would say that they had ended before.
                return self._ledger.finish(ends)
            return recorded

        return await asyncio.shield(asyncio.ensure_future(fly()))

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records."""
        batch = list(records)
        if self._jobs is None:
            self._job_records.update((record.name, record) for record in batch)
        await self._times.gate.wait()
        if self._times.are_over:
            if await self._times.attempt(lambda: _yes(self._inner.save_jobs(batch))):
                return
            await self._times.gate.wait()
        if self._times.is_blind:
            # These records were made without knowledge of the stored ones (pauses, anchors), which
            # must win: only the cursors may move.
            self._ledger.move_cursors(batch)
        else:
            self._ledger.save_jobs(batch)

    async def set_note(self, key: str, value: str | None) -> None:
        """Keep (``None``: forget) a small value under *key*."""
        self._saw_note(key, value)
        await self._times.gate.wait()
        if self._times.are_over:
            if await self._times.attempt(lambda: _yes(self._inner.set_note(key, value))):
                return
            await self._times.gate.wait()
        self._ledger.set_note(key, value)

    async def prune(
        self,
        *,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int = 500,
    ) -> Pruned:
        """Remove one batch of old rows; in bad times there is nothing to remove."""
        await self._times.gate.wait()
        if not self._times.are_over:
            return Pruned()
        pruned = await self._times.attempt(
            lambda: self._inner.prune(
                runs_before=runs_before,
                keep=keep,
                outputs_before=outputs_before,
                slots_before=slots_before,
                batch=batch,
            ),
            may_last=True,
        )
        return Pruned() if pruned is None else pruned

    # ── reads ─────────────────────────────────────────────────────────────────────────────────

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return all job records by name, as far as they are known."""
        async with self._times.undisturbed():
            stored = await self._times.read(self._inner.load_jobs)
            if self._jobs is None:
                self._job_records.update(stored or {})
            if self._times.are_over and stored is not None:
                return stored
            return self._ledger.jobs(stored if stored is not None else dict(self._job_records))

    async def active(self) -> list[Run]:
        """Return all queued and running runs, oldest slot first."""
        if not self._times.are_over:
            return self._ledger.active()
        stored = await self._times.read(self._inner.active)
        return self._ledger.active() if stored is None else stored

    async def get_run(self, run: int) -> Run | None:
        """Return one run."""
        if not self._times.are_over and (known := self._ledger.get_run(run)) is not None:
            return known
        return await self._times.read(lambda: self._inner.get_run(run)) or self._ledger.get_run(run)

    async def history(
        self,
        *,
        job: str | None = None,
        states: Sequence[State] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before_run: int | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Return runs, newest first; in bad times what can still be read, and what memory holds."""
        async with self._times.undisturbed():
            hidden = self._ledger.stored_and_changed() if not self._times.are_over else 0
            stored = await self._times.read(
                lambda: self._inner.history(
                    job=job,
                    states=states,
                    since=since,
                    until=until,
                    before_run=before_run,
                    limit=limit + hidden,
                )
            )
            if self._times.are_over and stored is not None:
                return stored[:limit]
            changed = self._ledger.changed()
        numbers = {run.run for run in changed}
        rows = [run for run in stored or [] if run.run not in numbers]
        rows += _matching(changed, job, states, since, until, before_run)
        return sorted(rows, key=lambda run: -run.run)[:limit]

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state; in bad times memory's changes are counted in."""
        async with self._times.undisturbed():
            stored = await self._times.read(self._inner.counts)
            if self._times.are_over and stored is not None:
                return stored
            counts = stored or dict.fromkeys(State, 0)
            changes = self._ledger.count_changes()
        return {state: max(0, counts[state] + changes[state]) for state in State}

    async def check(self) -> list[str]:
        """Return what an integrity check finds wrong, and that the database cannot be written, if so."""
        problems = [] if self.reason is None else [self.reason]
        try:
            return problems + await self._inner.check()
        except StoreError as error:
            return [*problems, str(error)]

    async def get_note(self, key: str) -> str | None:
        """Return a small value kept under *key*."""
        is_newer, note = self._ledger.note(key)
        if is_newer:
            return note
        stored = await self._times.read(lambda: self._inner.get_note(key))
        if stored is None and not self._times.are_over:
            return self._seen_notes.get(key)
        self._saw_note(key, stored)
        return stored

    def _saw_note(self, key: str, value: str | None) -> None:
        if value is None:
            self._seen_notes.pop(key, None)
        else:
            self._seen_notes[key] = value


async def _yes(call: Awaitable[None]) -> bool:
    await call
    return True


def _matching(
    runs: Iterable[Run],
    job: str | None,
    states: Sequence[State],
    since: datetime | None,
    until: datetime | None,
    before_run: int | None,
) -> list[Run]:
    """Return those of *runs* that a history with these bounds shows."""
    return [
        run
        for run in runs
        if (job is None or run.job == job)
        and (not states or run.state in states)
        and (since is None or run.queued_at >= since)
        and (until is None or run.queued_at < until)
        and (before_run is None or run.run < before_run)
    ]

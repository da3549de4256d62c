"""From good times to bad and back: when the database fails, when it works again, and what is written then.

::

    good ──a call fails for an outside reason──► bad ──backlog written──► good
                                                  │ ▲
                                                  └─┘ try again, with back-off

Two moments need care, and a gate holds all callers for their short time: when bad times begin, calls that
are still under way inside the database must come back before memory gives out a run number; when they
end, the last portion must be written before the database gives one out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from echosched.errors import OUTSIDE, StoreCorrupt, StoreError, StoreUnavailable
from echosched.events import StoreDegraded, StoreRecovered
from echosched.store.ledger import Backlog, Ledger

if TYPE_CHECKING:
    from echosched.model import Claim, JobRecord
    from echosched.protocols import Clock, EventSink
    from echosched.store.durable import DurableStore

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

HANG_SECONDS = 5.0
"""A disk that answers no write for so long is treated as one that fails."""

_SUSPICION_SECONDS = 0.5  # we may have been stopped ourselves: then the answers lie there, to be picked up
_READ_SECONDS = 2.0  # a read of a failing disk may hang; memory's answer must not wait for it
_MOMENT = timedelta(microseconds=1)
_UNKNOWN_NUMBERS = 1_000_000  # run numbers left out where the highest one could not be read


class BadTimes:
    """Keeps the time of a database that may fail. *records* and *notes* are what a fresh one begins with."""

    def __init__(
        self,
        inner: DurableStore,
        ledger: Ledger,
        clock: Clock,
        sink: EventSink,
        *,
        on_degraded: Callable[[datetime | None], None],
        records: Callable[[], Iterable[JobRecord]],
        notes: Callable[[], dict[str, str]],
        retry_seconds: tuple[float, float],
        hang_seconds: float,
    ) -> None:
        self.since: datetime | None = None
        self.reason: str | None = None
        self.is_blind = False  # opened although nothing could be read
        self.gate = asyncio.Event()
        self.gate.set()
        self.claims_under_way = 0
        self._inner = inner
        self._ledger = ledger
        self._clock = clock
        self._sink = sink
        self._on_degraded = on_degraded
        self._records = records
        self._notes = notes
        self._retry_seconds = retry_seconds
        self._hang_seconds = hang_seconds
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0
        self._answers = 0
        self._under_way = 0
        self._settling = 0
        self._blind_from: datetime | None = None  # what a crash now would leave unknown begins behind this
        self._writing = asyncio.Lock()
        self._recovery: asyncio.Task[None] | None = None
        self._began = 0.0
        self._written = 0
        self._is_damaged = False
        self._is_closed = True
        self._set_aside: str | None = None

    @property
    def are_over(self) -> bool:
        """Tell whether the database may be called."""
        return self.since is None

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def open(self, highest_trace: int, *, lenient: bool) -> None:
        """Open the database; set a damaged one aside at once; with *lenient* begin with bad times if need be."""
        try:
            await self._inner.open()
            await self._learn(highest_trace, lenient=False)
        except StoreCorrupt as error:
            self._begin(error)
            await self._repair()
            await self._write_backlog()
            await self._learn(highest_trace, lenient=False)
        except StoreUnavailable as error:
            await self._inner.close()
            if not lenient:
                raise
            await self._inner.open(must_write=False)
            await self._learn(highest_trace, lenient=True)
            self.degrade(error)

    async def _learn(self, trace: int, *, lenient: bool) -> None:
        """Learn what an earlier life left: the runs without outcome, and which run numbers are used."""
        try:
            highest = await self._inner.highest_run()
            self._ledger.saw_active(await self._inner.active())
            if trace > highest and not lenient:
                await self._inner.restore(Backlog(highest_run=trace))
        except StoreUnavailable:
            if not lenient:
                raise
            self.is_blind = True
            highest = trace + _UNKNOWN_NUMBERS
        self._is_closed = False
        self._ledger.highest_run = max(highest, trace)

    async def close(self) -> None:
        """Write what memory holds, if that can be done now, and close the database."""
        recovery, self._recovery = self._recovery, None
        if recovery is not None:
            recovery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await recovery
        try:
            if not self.are_over:
                async with asyncio.timeout(2 * self._hang_seconds):
                    await self._all_is_settled()
                    await self._repair()
                    await self._write_backlog()
        except (StoreError, TimeoutError) as error:
            lost, why = len(self._ledger.changed()), str(error) or "the disk does not answer"
            _log.error("The store closes without %s rows that could not be written: %s", lost, why)
        finally:
            await self._inner.close()

    # ── calls ─────────────────────────────────────────────────────────────────────────────────

    async def attempt(self, call: Callable[[], Awaitable[_T]], *, may_last: bool = False) -> _T | None:
        """Return the database's answer, ``None`` where an outside fault prevented one and bad times began.

        A call that *may_last* is no sign of a disk that hangs.
        """
        if not self.are_over:  # they began since the caller looked
            return None
        self._under_way += 1
        self._watched += not may_last
        if self._watch is None:
            self._look_later(self._hang_seconds, suspicious=False)
        try:
            return await call()
        except OUTSIDE as error:
            self.degrade(error)
            return None
        finally:
            self._under_way -= 1
            self._watched -= not may_last
            self._answers += 1
            if self._under_way == 0 and not self.are_over:
                self.gate.set()

    def _look_later(self, seconds: float, *, suspicious: bool) -> None:
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(seconds, self._look, self._answers, suspicious)

    def _look(self, answers: int, suspicious: bool) -> None:
        """Give up on a disk from which no answer came, since there were *answers*, to what was asked of it."""
        self._watch = None
        if not self._watched:
            return
        if answers != self._answers:
            self._look_later(self._hang_seconds, suspicious=False)
        elif not suspicious:
            self._look_later(_SUSPICION_SECONDS, suspicious=True)
        else:
            self.degrade(
                StoreUnavailable(f"the disk has not answered for {self._hang_seconds:g} s (check it)")
            )
            self._inner.give_up()

    async def read(self, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """Return what the database answers, ``None`` where it cannot be read."""
        if not self.are_over:
            return await self.try_read(call)
        try:
            return await call()
        except OUTSIDE as error:
            self.degrade(error)
            return None

    async def try_read(self, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """Read in bad times: within a time limit, and without a complaint."""
        try:
            return await asyncio.wait_for(call(), _READ_SECONDS)
        except StoreCorrupt:
            self._is_damaged = True
        except (StoreError, TimeoutError) as error:
            _log.debug("The store cannot be read either: %s", error)
        return None

    @contextlib.asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Keep the backlog from being written while a caller joins what is stored with what is not yet.

        Otherwise a row could be counted in both, or in neither. A disk that hangs is not waited for.
        """
        has_lock = False
        if not self.are_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_READ_SECONDS):
                    has_lock = await self._writing.acquire()
        try:
            yield
        finally:
            if has_lock:
                self._writing.release()

    def took(self, claims: Sequence[Claim]) -> None:
        """Note that memory alone knows of *claims*: should it be lost, their slots must not be caught up.

        The slot whose claim was the first to fail lies before the bad times, and so does all that is caught up
        in them.
        """
        oldest = min((claim.slot for claim in claims if claim.slot is not None), default=None)
        if self._blind_from is not None and oldest is not None and oldest <= self._blind_from:
            self._blind_from = oldest - _MOMENT
            self._on_degraded(self._blind_from)

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """Keep bad times from ending while claims are taken from a failed commit into memory."""
        self._settling += 1
        try:
            yield
        finally:
            self._settling -= 1

    async def _all_is_settled(self) -> None:
        await self.gate.wait()
        while self._settling:  # noqa: ASYNC110  (they wait for the gate alone, which is open)
            await asyncio.sleep(0)

    # ── from good to bad ──────────────────────────────────────────────────────────────────────

    def degrade(self, error: StoreError) -> None:
        """Begin bad times because of *error*, unless they have begun already."""
        if isinstance(error, StoreCorrupt):
            self._is_damaged = True
        if self.are_over:
            self._begin(error)
            self._recovery = asyncio.get_running_loop().create_task(self._recover(), name="store-recovery")

    def _begin(self, error: StoreError) -> None:
        self._is_damaged = isinstance(error, StoreCorrupt)
        self.since = self._clock.now()
        self.reason = str(error)
        self._began = self._clock.monotonic()
        self._written = 0
        # A commit that failed on its last flush may be found whole after a crash: its numbers are used.
        self._ledger.skip_numbers(self.claims_under_way)
        if self._under_way:
            self.gate.clear()  # until the others have come back; see attempt()
        _log.warning("The store fails, runs are kept in memory: %s", error)
        self._blind_from = self.since
        self._on_degraded(self.since)
        self._sink.emit(StoreDegraded(ts=self.since, reason=self.reason))

    # ── and back ──────────────────────────────────────────────────────────────────────────────

    async def _recover(self) -> None:
        shortest, longest = self._retry_seconds
        delay = 0.0 if self._is_damaged else shortest
        while True:
            await asyncio.sleep(delay)
            delay = min(max(shortest, delay * 2), longest)
            try:
                await self._all_is_settled()
                await self._repair()
                await self._write_backlog()
            except StoreError as error:
                if isinstance(error, StoreCorrupt):
                    self._is_damaged = True
                _log.debug("The store cannot be written yet: %s", error)
            except Exception:  # noqa: BLE001 — logged, and tried again
                # A mistake of ours in here must not end the attempts: without them the records would
                # stay in memory until the next crash.
                _log.exception("Writing the backlog failed")
            else:
                return

    async def _repair(self) -> None:
        """Replace a damaged database by a fresh one."""
        if self._is_damaged:
            self._set_aside = str(await self._inner.set_aside())
            self._is_damaged, self._is_closed = False, True
            _log.error("The damaged database was set aside as %s", self._set_aside)
        if self._is_closed:
            await self._inner.open()
            self._is_closed = False
            self._ledger.must_write_all(list(self._records()), self._notes(), self._clock.now())

    async def _write_backlog(self) -> None:
        """Write the backlog in portions; the last one behind the closed gate."""
        while True:
            portion = self._ledger.backlog()
            await self._write(portion)
            # As long as whole portions remain, callers need not wait for them.
            if self._ledger.is_empty or len(self._ledger.backlog().runs) < len(portion.runs):
                break
        self.gate.clear()
        try:
            async with asyncio.timeout(self._hang_seconds):
                while not self._ledger.is_empty:
                    await self._write(self._ledger.backlog())
                await self._inner.counts()  # reading works too
            self._end()
        except TimeoutError as error:
            raise StoreUnavailable("the disk does not answer") from error
        finally:
            self.gate.set()

    async def _write(self, portion: Backlog) -> None:
        async with self._writing:
            await self._inner.restore(portion)
            self._ledger.wrote(portion)
        self._written += len(portion.runs)

    def _end(self) -> None:
        event = StoreRecovered(
            ts=self._clock.now(),
            written=self._written,
            lost=self._ledger.lost,
            seconds=round(self._clock.monotonic() - self._began, 3),
            set_aside=self._set_aside,
        )
        self.since = self.reason = self._set_aside = self._recovery = self._blind_from = None
        self.is_blind = False
        self._ledger.recovered()
        _log.warning("The store works again: %s rows written, %s lost", event.written, event.lost)
        self._on_degraded(None)
        self._sink.emit(event)

"""The loop: a slot comes due, is judged, claimed and handed on.

Order is everything here::

    timer ─► misfire ─► overlap ─► claim (durable) ─► queue ─► executor ─► result
                                                                              │
             settle ◄─ tell (journal, metrics, messages) ◄─ finish (durable) ◄┘─► retry?

Claim before start: a crash can then hide a run, but never double one. This module is the upper line,
``runs`` the lower one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from echosched import events
from echosched.errors import Conflict, EchoschedError
from echosched.model import FAILURES, AfterWhen, Claim, Job, Overlap, Run, State, Trigger
from echosched.policy import misfire
from echosched.protocols import Clock, EventSink, Executor, Store
from echosched.scheduler.alarm import Alarm
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Judge, Wish
from echosched.scheduler.roster import Jitter, Roster
from echosched.scheduler.runs import RELEASE_PAUSE_SECONDS, OutputPath, Runs
from echosched.scheduler.tell import run_fields

log = logging.getLogger(__name__)

FIRED_AT_ONCE = 200
"""How many jobs are claimed in one commit: a thousand that are due together cost five."""

CLAIMED_IN_A_TURN = 16
"""How many of them are judged, or taken on, in one turn of the loop: no beat and no answer waits for all."""

FAILED_PAUSE_SECONDS = 1.0
"""Before slots that could not be claimed are tried again."""

STAGGER_SECONDS = 0.05
"""Between the starts of catch-up runs that come due together."""

JUMP_SECONDS = 1.0
"""A change of the wall clock against the monotonic one that counts as a jump."""

IMPLAUSIBLE_SECONDS = 366 * 86_400.0
"""A jump forward that long puts a clock right that was wrong (a machine that began in 1970): nothing was missed."""


class Scheduler:
    """Joins store, executor, clock and sinks. All methods belong to one event loop.

    *output_path* maps (run, attempt) to the file that takes the attempt's output; *jitter* is the
    deterministic spread of a job's slot, in seconds. *on_write* is told how long each durable write took.
    *redact* masks secrets in the reasons of failures. Slots are claimed *ahead* seconds before they come.
    """

    def __init__(
        self,
        *,
        store: Store,
        executor: Executor,
        clock: Clock,
        sinks: Sequence[EventSink] = (),
        max_concurrent: int = 64,
        output_path: OutputPath = lambda run, attempt: None,
        jitter: Jitter = lambda name, slot, jitter: 0.0,
        on_write: Callable[[float], None] = lambda seconds: None,
        redact: Callable[[str], str] = str,
        ahead: float = 0.0,
    ) -> None:
        self.store = store
        self._on_write = on_write
        self.clock = clock
        self.sinks = list(sinks)
        self.roster = Roster(
            store=store,
            clock=clock,
            emit=self.emit,
            wake=self._wake,
            spawn=self.spawn,
            jitter=jitter,
            take_back=lambda entry, reason: self._judge.take_back(entry, reason),
            ahead=ahead,
        )
        self.runs = Runs(
            store=store,
            clock=clock,
            executor=executor,
            emit=self.emit,
            spawn=self.spawn,
            on_end=self._start_followers,
            on_write=on_write,
            output_path=output_path,
            redact=redact,
            max_concurrent=max_concurrent,
        )
        self._judge = Judge(self.roster, self.runs)
        self._due = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clockwork: asyncio.Task[None] | None = None
        self._leaving = False
        self._firing = False
        self._alarm = Alarm(clock, self.roster, self.runs, self._ring)
        self._wall_offset = self._offset()
        self._boot_offset = clock.boot() - clock.monotonic()

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def load(self, jobs: Mapping[str, Job]) -> None:
        """Take *jobs* into force. Fires nothing yet."""
        await self.roster.load(jobs)

    def begin(self) -> None:
        """Let slots fire from now on; what came due before is caught up by each job's policy."""
        self._alarm.begin()
        self.runs.starting = True
        self.roster.arm_all()
        self._wake()
        self._clockwork = asyncio.create_task(self._run_clockwork(), name="clockwork")
        self.runs.pump()

    @property
    def idle(self) -> bool:
        """Tell whether nothing is due, starting, running or being recorded.

        What waits for time to pass (a retry, a catch-up run in its turn) does not count: under a clock
        that is moved by hand, this is when to move it.
        """
        first = self.roster.heap.first()
        due = first is not None and first <= self.clock.now().timestamp()
        return not (due or self._firing or self._due.is_set() or self._tasks or self.runs.queue.placed)

    async def quiesce(self) -> None:
        """Claim no slot and start no run any more; what is under way goes on. Nothing is lost by it."""
        self.runs.starting = False
        if self._clockwork is not None:
            # Not cancelled: a claim under way is finished, or its rows would wait for the next worker.
            self._leaving = True
            self._wake()
            await self._clockwork
            self._clockwork = None
        self._alarm.close()

    async def stop(self, grace: float) -> None:
        """Quiesce, wait *grace* seconds for running jobs, then cancel what is left; all ends are recorded."""
        await self.quiesce()
        if not await self.runs.drain(grace):
            self.runs.stop_all()
            await self.runs.drain(60.0)

    async def apply(self, jobs: Mapping[str, Job], *, max_concurrent: int | None = None) -> events.Reload:
        """Replace the jobs in force by *jobs*; leave alone what did not change."""
        before = list(self.roster.entries.values())
        try:
            event = await self.roster.apply(jobs)
        finally:
            for entry in before:
                if self.roster.entries.get(entry.job.name) is not entry:
                    self._take_back_removed(entry)
        if max_concurrent is not None:
            self.runs.queue.max_concurrent = max_concurrent
        self.emit(event)
        self.runs.pump()
        return event

    def _take_back_removed(self, entry: Entry) -> None:
        for live in list(entry.active.values()):
            if not live.placed:
                self.runs.cancel_live(live, State.CANCELLED, "its job was removed")

    # ── the clockwork ─────────────────────────────────────────────────────────────────────────

    def _ring(self, now: float) -> None:
        # What is claimed already starts before anything else is looked at, and has the interpreter to itself.
        first = self.roster.heap.first()
        if self.runs.release(now) and (first is None or first > now):
            asyncio.get_running_loop().call_later(RELEASE_PAUSE_SECONDS, self._wake)
        else:
            self._wake()
        held = self.runs.held.first()
        if held is not None and held > now:
            self._alarm.set(slots=False)  # the clockwork does so too, but not before the disk has answered

    def _wake(self) -> None:
        self._due.set()

    async def _run_clockwork(self) -> None:
        more = False
        while not self._leaving:
            await self._due.wait()
            self._due.clear()
            self._firing = True
            try:
                await self._notice_jump()
                more = not self._leaving and await self._fire(FIRED_AT_ONCE)
            except Exception:
                log.exception("firing failed; the loop goes on")
                more = False
                await asyncio.sleep(FAILED_PAUSE_SECONDS)
            self._firing = False
            if more:
                # Look again at once, but after a turn of the loop: a long backlog must not keep beats
                # and the socket waiting.
                self._wake()
                self._alarm.set(slots=False)
                await asyncio.sleep(0)
            else:
                self._alarm.set()

    def _offset(self) -> float:
        return self.clock.now().timestamp() - self.clock.monotonic()

    async def _notice_jump(self) -> None:
        offset, boot = self._offset(), self.clock.boot() - self.clock.monotonic()
        moved, slept = offset - self._wall_offset, boot - self._boot_offset
        # Also when small: slewing must not add up to a jump.
        self._wall_offset, self._boot_offset = offset, boot
        if abs(moved) < JUMP_SECONDS:
            return
        now = self.clock.now()
        suspended = abs(moved - slept) < JUMP_SECONDS
        self.emit(events.ClockJump(ts=now, seconds=round(moved, 6), suspended=suspended))
        if moved < 0:
            self.runs.release(math.inf)  # by the clock as it was they would have begun by now
            self.roster.rewind(now)
        elif moved > IMPLAUSIBLE_SECONDS and not suspended:
            await self.roster.leap(now)

    async def _fire(self, most: int) -> bool:
        """Deal with what is due now, *most* jobs of it; tell whether anything was."""
        now = self.clock.now()
        wishes: list[Wish] = []
        due = self.roster.heap.pop_due(now.timestamp(), most)
        for count, (_, entry) in enumerate(due, 1):
            if count % CLAIMED_IN_A_TURN == 0:
                await asyncio.sleep(0)  # beats and answers do not wait for all of them
            try:
                wishes += self._judge.wishes(entry, now)
            except Exception as error:
                log.exception("job %s: its schedule failed", entry.job.name)
                self.roster.park(entry, f"its schedule failed: {error}")
        if wishes:
            if any(wish.claim.trigger is Trigger.CATCHUP for wish in wishes):
                # Jobs come in the order of their first missed slots; what they run may be their last.
                wishes.sort(key=lambda wish: wish.claim.slot or now)
            await self._claim_due(wishes)
        self.runs.release(self.clock.now().timestamp())  # what came due while it was being claimed
        return bool(due)

    async def _claim_due(self, wishes: Sequence[Wish]) -> None:
        try:
            await self.claim(wishes)
        except Exception:
            if len(wishes) == 1:
                self.roster.arm(wishes[0].entry)  # its slot is not accounted for: once more, from there
                raise
            failed: Exception | None = None
            for wish in wishes:  # one that the store cannot take must not cost the others
                wish.entry.claiming += wish.counted
                try:
                    await self._claim_due([wish])
                except Exception as error:  # noqa: BLE001 - raised when all had their turn
                    failed = error
            if failed is not None:
                raise failed from None

    async def claim(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Make the wishes durable in one commit, then queue what is to run. Returns the run numbers."""
        begun, changes = self.clock.monotonic(), self.roster.changes
        try:
            numbers = await self.store.claim([wish.claim for wish in wishes])
        except BaseException:
            for wish in wishes:
                wish.entry.claiming -= wish.counted
            raise
        finally:
            self._on_write(self.clock.monotonic() - begun)
        catchups = 0
        claimed: list[events.Event] = []
        for count, (wish, number) in enumerate(zip(wishes, numbers, strict=True), 1):
            if count % CLAIMED_IN_A_TURN == 0:
                await asyncio.sleep(0)
            entry, claim = wish.entry, wish.claim
            entry.claiming -= wish.counted
            if claim.slot is not None and claim.slot > entry.cursor_at:
                entry.cursor_at = claim.slot
            if number is None:
                continue  # accounted for already, by an earlier life or before the clock was set back
            live = LiveRun(entry, number, claim.slot, claim.trigger, claim.at)
            if claim.state.is_outcome:
                kind = _NOT_RUN[claim.state]
                claimed.append(kind(ts=claim.at, **run_fields(live), reason=claim.error or ""))
                continue
            live.armed = claim.state is State.RUNNING
            live.exclusive = wish.exclusive
            claimed.append(events.SlotClaimed(ts=claim.at, **run_fields(live)))
            if wish.until is not None:
                self.runs.hold(live, wish.until)
                continue
            delay = 0.0
            if claim.slot is not None and claim.at - claim.slot > misfire.TOLERANCE:
                delay = catchups * STAGGER_SECONDS
                catchups += 1
            self.runs.enlist(live, delay=delay)
        if self.roster.changes != changes:  # while they were being claimed
            for entry in {wish.entry for wish in wishes}:
                if self.roster.entries.get(entry.job.name) is entry:
                    self.roster.take_back_moot(entry)
                else:
                    self._take_back_removed(entry)
        # Starts are on their way before the telling, which still comes first: attempts begin with the
        # loop's next turn.
        self.runs.pump()
        for event in claimed:
            self.emit(event)
        return numbers

    # ── runs that nobody scheduled ────────────────────────────────────────────────────────────

    async def trigger(
        self, name: str, trigger: Trigger = Trigger.MANUAL, *, slot: datetime | None = None
    ) -> int | None:
        """Make a run of job *name* now; return its number (``None``: that *slot* was accounted for already).

        With the overlap policies ``skip`` and ``queue`` it waits for an earlier run rather than being dropped.
        """
        entry = self.roster.entry(name)
        if not self.runs.starting:
            raise Conflict(
                f"job {name}: the scheduler is stopping and starts nothing (try again when it is back)"
            )
        policy = entry.job.policy
        busy = bool(entry.unended) or entry.claiming > 0
        # A slot that was accounted for already will be refused: nothing gives way to it.
        if busy and policy.overlap is Overlap.REPLACE and (slot is None or slot > entry.cursor_at):
            self._judge.replace(entry, "replaced by a manual run (overlap replace)")
        exclusive = busy and policy.overlap is not Overlap.ALLOW
        state = State.QUEUED if exclusive else State.RUNNING
        entry.claiming += 1
        claim = Claim(name, slot, trigger, state, self.clock.now(), None, policy.priority)
        return (await self.claim([Wish(entry, claim, exclusive, counted=True)]))[0]

    def _start_followers(self, live: LiveRun, state: State) -> None:
        if not self.runs.starting:
            return
        for entry in self.roster.followers.get(live.job.name, ()):
            after = entry.job.after
            if after is not None and entry.job.enabled and not entry.paused and wants(after.when, state):
                self.spawn(self.follow_up(entry.job.name, live.slot))

    async def follow_up(self, name: str, slot: datetime | None) -> None:
        """Start job *name* after another one's run for *slot*; once for each slot, however often it is asked."""
        try:
            await self.trigger(name, Trigger.AFTER, slot=slot)
        except EchoschedError as error:
            log.warning("job %s could not follow: %s", name, error)

    async def left_behind(self) -> list[Run]:
        """Return the runs without an outcome that an earlier worker of this scheduler left."""
        return await self.store.active()

    async def cancel(self, run: int, reason: str) -> None:
        """End run *run*, queued or running; raises ``NotFound`` for any other."""
        self.runs.cancel(run, reason)

    async def wait(self, run: int) -> Run:
        """Return run *run* when it has ended."""
        return await self.runs.wait(run)

    # ── edges ─────────────────────────────────────────────────────────────────────────────────

    def emit(self, event: events.Event) -> None:
        """Tell every sink; one that raises is logged and left out."""
        for sink in self.sinks:
            try:
                sink.emit(event)
            except Exception:
                log.exception("event sink %s failed on %s", type(sink).__name__, event.event)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run *coroutine* beside the loop; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background step failed", exc_info=error)


_NOT_RUN: dict[State, type[events.RunMissed | events.RunSkipped | events.RunAbandoned]] = {
    State.MISSED: events.RunMissed,
    State.SKIPPED: events.RunSkipped,
    State.ABANDONED: events.RunAbandoned,
}


def wants(when: AfterWhen, state: State) -> bool:
    """Tell whether an earlier job's outcome *state* starts the job that comes after it."""
    if when is AfterWhen.SUCCESS:
        return state is State.SUCCEEDED
    if when is AfterWhen.FAILURE:
        return state in FAILURES
    return state.is_outcome

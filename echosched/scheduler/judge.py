"""What becomes of a slot: misfire and overlap, put together into the wish for a claim.

What a slot costs besides its start is done before it comes. Judging it, numbering its run and waiting for
the disk take longer than starting a process: so a slot whose verdict cannot change any more (nothing of
its job is under way) is claimed up to :data:`AHEAD_SECONDS` early, durably, and its run is held until the
very instant. Then nothing is left to do but to start it. A crash in between leaves a claim without a start,
which the next worker makes good (:mod:`~echosched.scheduler.recovery`); a pause or a reload in between
takes the run back, with a reason, and so does a manual run that began in between and that it may not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from echosched.model import Claim, Overlap, State, Trigger
from echosched.policy import misfire, overlap
from echosched.scheduler.entries import Entry
from echosched.scheduler.roster import Roster
from echosched.scheduler.runs import Runs

AHEAD_SECONDS = 0.2
"""How early a daemon claims: a small machine claims a thousand slots of one second in half of it."""

ARMED_AHEAD = 1024
"""How many runs may hold the durable right to start before they have a place: one commit arms many."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A claim to be made for an entry; *exclusive*: its run waits for the job's other ones.

    *counted*: it is part of ``entry.claiming`` until the claim is made. *until*: when the slot fires, if it
    has not come yet (epoch seconds).
    """

    entry: Entry
    claim: Claim
    exclusive: bool = False
    counted: bool = False
    until: float | None = None


class Judge:
    """Turns slots into wishes. Writes nothing; gives way to newer slots where a policy says so."""

    def __init__(self, roster: Roster, runs: Runs) -> None:
        self._roster = roster
        self._runs = runs

    def wishes(self, entry: Entry, now: datetime) -> list[Wish]:
        """Return what is wished for the slots of *entry* that are due, or nearly; moves it on behind them."""
        if entry.slot is not None and (at := self._roster.due_at(entry, entry.slot)) > now.timestamp():
            return self._ahead(entry, at, now)
        slots, more = self._roster.take_due(entry, now)
        self._roster.push(entry)
        wishes = []
        absent_until = self._roster.absent_until
        for verdict in misfire.judge(slots, now, entry.job.policy, more=more, absent_until=absent_until):
            if verdict.missed is not None:
                wishes.append(_wish(entry, verdict, State.MISSED, now, error=verdict.missed))
            elif verdict.trigger is Trigger.CATCHUP:
                # A backlog is worked off one after another; overlap judges live slots only.
                entry.claiming += 1
                wishes.append(_wish(entry, verdict, State.QUEUED, now, exclusive=True))
            else:
                wishes.append(self._overlap(entry, verdict, now))
        return wishes

    def _ahead(self, entry: Entry, at: float, now: datetime) -> list[Wish]:
        """Judge a slot that comes only *at* that instant, if its verdict is known already."""
        policy = entry.job.policy
        idle = policy.overlap is Overlap.ALLOW or not (entry.unended or entry.claiming)
        # Without an output file nothing proves that a claimed run never began: the time between stays short.
        if not (idle and policy.output):
            self._roster.push(entry, early=False)
            return []
        verdict = misfire.Verdict(self._roster.take_next(entry))
        self._roster.push(entry)
        return [self._overlap(entry, verdict, now, until=at)]

    def _overlap(
        self, entry: Entry, verdict: misfire.Verdict, now: datetime, *, until: float | None = None
    ) -> Wish:
        runs = entry.unended
        # A run that waits for its next attempt has begun.
        waiting = entry.claiming + sum(not live.placed and live.attempt == 1 for live in runs)
        earlier = runs[0].run if runs else None
        decision = overlap.judge(
            entry.job.policy.overlap, len(runs) + entry.claiming, waiting, earlier=earlier
        )
        if decision.move is overlap.Move.SKIP:
            return _wish(entry, verdict, State.SKIPPED, now, error=decision.reason)
        # A slot that comes due once more (the clock was set back) will be refused: nothing gives way to it.
        if decision.move is overlap.Move.REPLACE and verdict.slot > entry.cursor_at:
            self.replace(entry, "replaced by a newer slot (overlap replace)")
        entry.claiming += 1
        if decision.move is not overlap.Move.START:
            return _wish(entry, verdict, State.QUEUED, now, exclusive=True)
        armed = self._runs.queue.waiting + len(self._runs.held) < ARMED_AHEAD
        return _wish(entry, verdict, State.RUNNING if armed else State.QUEUED, now, until=until)

    def replace(self, entry: Entry, reason: str) -> None:
        """End all runs of *entry*, for *reason*."""
        for live in list(entry.active.values()):
            self._runs.cancel_live(live, State.CANCELLED, reason)

    def take_back(self, entry: Entry, reason: str) -> None:
        """Let no run of *entry* start that is held for its slot: an operator came first."""
        for live in entry.held:
            self._runs.cancel_live(live, State.SKIPPED, reason)


def _wish(
    entry: Entry,
    verdict: misfire.Verdict,
    state: State,
    now: datetime,
    *,
    error: str | None = None,
    exclusive: bool = False,
    until: float | None = None,
) -> Wish:
    job = entry.job
    claim = Claim(job.name, verdict.slot, verdict.trigger, state, now, error, job.policy.priority)
    return Wish(entry, claim, exclusive, counted=not state.is_outcome, until=until)

"""What a new worker does about runs that an earlier one left behind.

For each row that is still queued or running there are five possible truths:

=====================  ==========================================================================
it runs on             its process is known, or found by its mark: adopt it
it ended meanwhile     the supervisor kept its exit code, or it left an answer: record it
it never began         nothing of it exists (see :attr:`Evidence.began`): start it now
it ran in the worker   a built-in job ended with it and can be begun anew: do that
nobody knows           it began and is gone without a trace: ``abandoned``
=====================  ==========================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from echosched import events
from echosched.model import (
    Attempt,
    Catchup,
    Claim,
    Ended,
    Job,
    OnAbandoned,
    ProcessIdentity,
    Result,
    Run,
    Started,
    State,
    Trigger,
)
from echosched.policy.misfire import is_live
from echosched.protocols import Execution
from echosched.scheduler.core import Scheduler, wants
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Wish
from echosched.scheduler.roster import Roster
from echosched.scheduler.tell import run_fields

log = logging.getLogger(__name__)

FOLLOW_REACH = timedelta(days=1)
"""A run is queued at most this long before its slot (the clock may have been set back meanwhile)."""

HELD_SECONDS = 1.0
"""A run that was claimed ahead waits for its slot; one that lies further off knew another clock."""


async def _not_again(_attempt: Attempt) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rest of the system knows of earlier attempts.

    *same_boot*: no reboot (and no new pid namespace) lies in between, so pids still mean what they meant.
    *held*: processes by tag that the supervisor still holds, alive or with a kept exit code.
    *find* looks for a living process that carries the attempt's mark. *began* tells whether the attempt's
    output file exists: it is created by the start itself, so where it is missing nothing was started.
    *adopt* begins to watch a process; its execution answers ``abandoned`` where the exit code is lost.
    *past* returns the execution of an attempt that ended and left an answer. *traced* tells of a job whether
    its attempts make an output file at all. *again* tells whether an attempt that began, and is gone, may
    begin anew (a built-in job ended with the worker it ran in), and makes room for it.
    """

    same_boot: bool
    held: Mapping[str, ProcessIdentity]
    find: Callable[[Attempt], ProcessIdentity | None]
    began: Callable[[int, int], bool]
    adopt: Callable[[Attempt, ProcessIdentity], Execution]
    output_path: Callable[[int, int], str | None]
    past: Callable[[Attempt], Execution | None] = lambda attempt: None
    traced: Callable[[Job], bool] = lambda job: job.policy.output
    again: Callable[[Attempt], Awaitable[bool]] = _not_again


async def recover(scheduler: Scheduler, evidence: Evidence, blind_since: datetime | None = None) -> None:
    """Take over every run that has no outcome yet. Call between ``load`` and ``begin``.

    After an instant *blind_since* ends, and what followed them, may be known to nobody any more.
    """
    now = scheduler.clock.now()
    for run in await scheduler.left_behind():
        if run.run in scheduler.runs.live:
            continue  # claimed a moment ago, in place of one that blind time had hidden
        live = scheduler.roster.live(run)
        attempt = Attempt(
            run.run, live.job, run.slot, run.attempt, run.trigger, evidence.output_path(run.run, run.attempt)
        )
        hidden = blind_since is not None and run.slot is not None and run.slot > blind_since
        if hidden and run.slot is not None and _may_have_ended(run, attempt, evidence):
            await _account_for_what_followed(scheduler, run.job, run.slot, now)
        process = _process(run, attempt, evidence)
        if process is not None:
            _adopt(scheduler, live, run, evidence.adopt(attempt, process), process)
        elif (past := evidence.past(attempt)) is not None:
            _adopt(scheduler, live, run, past, None)
        elif _may_have_begun(run, live.job, evidence, was_blind=blind_since is not None):
            fresh = now - (run.slot or run.queued_at) <= live.job.policy.catchup_window
            if fresh and await evidence.again(attempt):
                log.warning("run %s of %s ended with the worker, and begins anew", run.run, run.job)
                live.armed = live.exclusive = True
                scheduler.runs.enlist(live)
            else:
                _abandon(scheduler, live, now, evidence)
        else:
            _start_late(scheduler, live, run, now)


async def account_for_blind_time(scheduler: Scheduler, since: datetime) -> None:
    """Account for slots that came due while the last worker could not write, and then died.

    Whether they ran is known to nobody: each becomes ``abandoned`` (and is run again by ``on_abandoned =
    "retry"``), and catch-up does not touch them.
    """
    now = scheduler.clock.now()
    for entry in scheduler.roster.entries.values():
        if not entry.waits or entry.schedule is None:
            continue
        slot = entry.schedule.next_after(max(entry.cursor_at, since))
        claims = []
        while slot is not None and slot <= now:
            claims.append(_hidden(entry, slot, Trigger.SCHEDULE, now))
            slot = entry.schedule.next_after(slot)
        if claims:
            await scheduler.claim([Wish(entry, claim, exclusive=True) for claim in claims])
            for claim in claims:
                if claim.slot is not None:
                    await _account_for_what_followed(scheduler, entry.job.name, claim.slot, now)
    while await _account_for_followers(scheduler, since, now):  # a follower may have followers
        pass


async def _account_for_followers(scheduler: Scheduler, since: datetime, now: datetime) -> bool:
    """Account for what may have followed runs of a blind time; tell whether there was anything."""
    wishes = []
    for job, followers in scheduler.roster.followers.items():
        ended = await scheduler.store.history(job=job, since=since - FOLLOW_REACH, limit=1000)
        wishes += [
            Wish(entry, _hidden(entry, run.slot, Trigger.AFTER, now), exclusive=True)
            for entry in followers
            for run in reversed(ended)
            if run.slot is not None and run.slot > since and _is_followed(entry, run)
        ]
    numbers = await scheduler.claim(wishes) if wishes else []
    return any(number is not None for number in numbers)


async def _account_for_what_followed(scheduler: Scheduler, job: str, slot: datetime, now: datetime) -> None:
    """Account for runs that may have followed one of which nobody knows how it ended."""
    for entry in scheduler.roster.followers.get(job, ()):
        if entry.job.enabled and not entry.paused:
            # Not run again, whatever on_abandoned says: perhaps there was nothing to follow.
            why = f"nobody knows whether it followed {job}: the scheduler died while the store could not be written"
            claim = Claim(entry.job.name, slot, Trigger.AFTER, State.ABANDONED, now, why)
            await scheduler.claim([Wish(entry, claim, exclusive=True)])
            await _account_for_what_followed(scheduler, entry.job.name, slot, now)


def _hidden(entry: Entry, slot: datetime, trigger: Trigger, now: datetime) -> Claim:
    """Return the claim for a slot of which nobody knows whether it ran."""
    if entry.job.policy.on_abandoned is OnAbandoned.RETRY:
        return Claim(entry.job.name, slot, trigger, State.QUEUED, now)
    why = "it came due while the store could not be written, and the scheduler died before it could be"
    return Claim(entry.job.name, slot, trigger, State.ABANDONED, now, why)


def _is_followed(entry: Entry, run: Run) -> bool:
    after = entry.job.after
    if after is None or not entry.job.enabled or entry.paused:
        return False
    return run.state.is_outcome and wants(after.when, run.state)


async def follow_up(scheduler: Scheduler) -> None:
    """Start what should have followed runs that ended while nobody could start it. Call after ``begin``.

    A follower's slot is that of the run it follows, so its cursor tells which may not have been followed, and
    the store's key keeps any from being followed twice.
    """
    recent = scheduler.clock.now() - FOLLOW_REACH
    for job, followers in scheduler.roster.followers.items():
        for entry in followers:
            cursor_at = entry.cursor_at  # each one that is followed moves it on
            ended = await scheduler.store.history(job=job, since=cursor_at - FOLLOW_REACH, limit=1000)
            for run in reversed(ended):
                if _is_later(run, cursor_at, recent) and _is_followed(entry, run):
                    await scheduler.follow_up(entry.job.name, run.slot)


def _is_later(run: Run, cursor_at: datetime, recent: datetime) -> bool:
    """Tell whether nobody may have followed *run*, whose follower has got as far as *cursor_at*."""
    if run.slot is None:
        return False
    # Runs may end in another order than that of their slots. Of old ones the slots may be forgotten already.
    return run.slot > cursor_at or (run.ended_at is not None and run.ended_at > max(cursor_at, recent))


def _process(run: Run, attempt: Attempt, evidence: Evidence) -> ProcessIdentity | None:
    if not evidence.same_boot:
        return None
    held = evidence.held.get(attempt.tag)
    if held is not None:
        return held
    if run.state is State.RUNNING and run.process is not None:
        return run.process
    if evidence.began(run.run, run.attempt):
        return evidence.find(attempt)
    return None


def _may_have_begun(run: Run, job: Job, evidence: Evidence, *, was_blind: bool = False) -> bool:
    if evidence.began(run.run, run.attempt) or run.started_at is not None:
        return True
    if run.state is State.QUEUED:
        return False
    # The right to start was durable. After a reboot a missing file proves nothing (it may not have
    # reached the disk, or went down with a filesystem in bad times), nor does it for a job whose output is discarded.
    return was_blind or not evidence.same_boot or not evidence.traced(job)


def _may_have_ended(run: Run, attempt: Attempt, evidence: Evidence) -> bool:
    """Tell whether an end may have been seen, and acted on, by a worker that could not write it down."""
    if not _may_have_begun(run, attempt.job, evidence, was_blind=True):
        return False
    # What still lives has not ended, and of what the supervisor holds nobody has acted on the end.
    return not evidence.same_boot or (attempt.tag not in evidence.held and evidence.find(attempt) is None)


def _adopt(
    scheduler: Scheduler, live: LiveRun, run: Run, execution: Execution, process: ProcessIdentity | None
) -> None:
    live.armed = True
    live.execution = execution
    live.started_at = run.started_at or execution.started_at
    if run.started_at is None and live.started_at is not None:
        # The crash came before the start was written; history shall not show a run that never began but ended.
        scheduler.store.started([Started(live.run, live.attempt, live.started_at, process)])
    if process is not None:
        scheduler.emit(events.RunAdopted(ts=scheduler.clock.now(), **run_fields(live), pid=process.pid))
    scheduler.runs.watch(live)


def _abandon(scheduler: Scheduler, live: LiveRun, now: datetime, evidence: Evidence) -> None:
    why = "it was running when the scheduler crashed, and its end was not seen"
    if not evidence.same_boot:
        why = "it was running when the machine went down"
    retry_at = now if live.job.policy.on_abandoned is OnAbandoned.RETRY else None
    result = Result(State.ABANDONED, error=why)
    scheduler.runs.finish(live, Ended(live.run, live.job.name, live.attempt, now, result, retry_at))


def _gives_way(roster: Roster, entry: Entry, slot: datetime, now: datetime) -> bool:
    """Tell whether *slot*, which nobody was there to run though it had been claimed, is missed for good."""
    catchup = entry.job.policy.catchup
    if catchup is not Catchup.LAST or entry.schedule is None or not entry.waits:
        return catchup is Catchup.NONE
    # What has come since only follows from where the cursor is: a schedule that is new has nothing to catch up.
    newer = entry.schedule.next_after(max(slot, entry.cursor_at))
    return newer is not None and roster.due_at(entry, newer) <= now.timestamp()


def _start_late(scheduler: Scheduler, live: LiveRun, run: Run, now: datetime) -> None:
    roster, window = scheduler.roster, live.job.policy.catchup_window
    due = run.slot or run.queued_at
    ahead = run.attempt == 1 and run.queued_at < due  # claimed before its slot came
    if run.job not in roster.entries:
        result = Result(State.CANCELLED, error="its job was removed before it began")
    elif now - due > window:
        # An earlier attempt did run: "missed" would deny it.
        state = State.MISSED if run.attempt == 1 else State.FAILED
        result = Result(state, error="it was still queued when catchup_window had passed")
    elif ahead and not is_live(due, now, roster.absent_until) and _gives_way(roster, live.entry, due, now):
        reason = (
            "catchup is none" if live.job.policy.catchup is Catchup.NONE else "a newer slot's run follows"
        )
        result = Result(State.MISSED, error=f"the scheduler ended just before it came, and {reason}")
    elif ahead and 0.0 < (at := roster.due_at(live.entry, due)) - now.timestamp() < HELD_SECONDS:
        live.armed = run.state is State.RUNNING
        scheduler.runs.hold(live, at)
        return
    else:
        live.armed = run.state is State.RUNNING
        wait = 0.0 if run.not_before_at is None else (run.not_before_at - now).total_seconds()
        # Whatever came first goes first; the job's other runs may be alive, so it does not overlap them.
        live.exclusive = True
        scheduler.runs.enlist(live, delay=wait)
        return
    scheduler.runs.finish(live, Ended(live.run, live.job.name, live.attempt, now, result))

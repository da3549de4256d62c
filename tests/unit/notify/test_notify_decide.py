"""Which event makes which message: tables, and a model checked by hypothesis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echosched import events
from echosched.model import CommandAction, Job, Policy
from echosched.notify import OCCASIONS
from echosched.notify.decide import OVERDUE_AFTER, Decider
from echosched.notify.message import Message, headline

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Target:
    name: str = "team"
    kind: str = "mail"
    on: tuple[str, ...] = ("failure", "recovery", "missed", "abandoned")
    default: bool = True


def job(name: str = "a", **policy) -> Job:
    return Job(name, CommandAction("true"), policy=Policy(**policy))


def jobs(*named: Job) -> dict[str, Job]:
    return {each.name: each for each in named or (job(),)}


def fields(number: int = 1, name: str = "a", minutes: float = 0.0, **more):
    at = AT + timedelta(minutes=minutes)
    return {"ts": at, "job": name, "run": number, "slot": at, "attempt": 1, "trigger": "schedule", **more}


def start(number: int = 1, name: str = "a", minutes: float = 0.0, **more) -> events.RunStart:
    return events.RunStart(**fields(number, name, minutes, **more))


def end(state: str, number: int = 1, name: str = "a", minutes: float = 0.0, **more) -> events.RunEnd:
    values = {"exit_code": None, "signal": None, "duration_seconds": 1.0, "lag_seconds": 0.0, "error": None}
    return events.RunEnd(**fields(number, name, minutes), state=state, **{**values, **more})


def told(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.target, message.occasion) for message in messages if not message.again]


def missed(number: int = 1, minutes: float = 0.0) -> events.RunMissed:
    return events.RunMissed(**fields(number, minutes=minutes), reason="older than 24h")


DEGRADED = events.StoreDegraded(ts=AT, reason="x")
RECOVERED = events.StoreRecovered(ts=AT, written=1, lost=0, seconds=1)


@pytest.mark.parametrize(
    ("on", "happens", "occasions"),
    [
        (("failure",), [end("failed")], ["failure"]),
        (("failure",), [end("timed_out")], ["failure"]),
        (("failure",), [end("failed"), end("failed"), end("timed_out")], ["failure"]),
        (("failure",), [end("failed"), end("succeeded"), end("failed")], ["failure", "failure"]),
        (("failure", "recovery"), [end("failed"), end("failed"), end("succeeded")], ["failure", "recovery"]),
        (("recovery",), [end("failed"), end("succeeded")], []),
        (("failure", "recovery"), [end("succeeded")], []),
        (("failure",), [end("cancelled")], []),
        (("failure", "recovery"), [end("failed"), end("cancelled"), end("succeeded")], ["failure", "recovery"]),
        (("missed", "recovery"), [missed(), missed(), end("succeeded")], ["missed", "recovery"]),
        (("abandoned",), [end("abandoned"), end("abandoned")], ["abandoned"]),
        (("failure", "abandoned"), [end("abandoned"), end("failed")], ["abandoned", "failure"]),
        (("failure",), [end("abandoned")], []),
        (("success",), [end("succeeded"), end("succeeded")], ["success", "success"]),
        (("output",), [end("succeeded", output_bytes=0), end("failed", output_bytes=9)], ["output"]),
        (("failure",), [events.JobParked(ts=AT, job="a", reason="x")], ["failure"]),
        (("failure", "recovery"), [DEGRADED, RECOVERED], ["failure", "recovery"]),
        (("failure",), [events.RunRetry(**fields(), retry_at=AT, error="x")], []),
        (("failure",), [events.NotifyFailed(ts=AT, target="team", reason="x")], []),
    ],
)  # fmt: skip
def test_each_change_of_state_is_told_once(on, happens, occasions):
    decider = Decider([Target(on=on)], jobs())
    assert [o for event in happens for _, o in told(decider.see(event))] == occasions


def test_the_recovery_sums_up_what_happened():
    decider = Decider([Target()], jobs())
    for minute in range(3):
        decider.see(end("failed", minute, minutes=minute, error="refused"))
    decider.see(missed(minutes=4))
    (message,) = decider.see(end("succeeded", 9, minutes=9))
    assert message.occasion == "recovery"
    assert message.count == 3
    assert message.since == AT
    assert message.why == "before: failed 3 times, missed slots once"
    assert headline(message) == "a works again after 3 failures"


def test_what_happens_again_is_news_for_an_unread_message():
    decider = Decider([Target()], jobs())
    (first,) = decider.see(missed(1))
    (again,) = decider.see(missed(2, minutes=1))
    assert not first.again
    assert again.again
    assert again.count == 2
    assert again.since == AT


def test_a_job_tells_whom_it_names_and_others_tell_everyone_by_default():
    targets = [Target("all"), Target("dba", default=False), Target("quiet", on=("success",))]
    decider = Decider(
        targets, jobs(job("a"), job("b", notify=("dba",)), job("c", notify=()), job("d", notify=("gone",)))
    )
    assert told(decider.see(end("failed"))) == [("all", "failure")]
    assert told(decider.see(end("failed", name="b"))) == [("dba", "failure")]
    assert told(decider.see(end("failed", name="c"))) == []
    assert told(decider.see(end("failed", name="d"))) == []
    assert told(decider.see(end("failed", name="unknown"))) == [("all", "failure")]


def test_watchers_are_pinged_at_start_and_end():
    targets = [Target("watch", kind="healthchecks", on=()), Target(on=())]
    decider = Decider(targets, jobs(job("a", healthcheck="https://x/1")))
    assert told(decider.see(start())) == [("watch", "start"), ("healthcheck:a", "start")]
    assert told(decider.see(start(attempt=2))) == []
    assert told(decider.see(end("succeeded"))) == [("watch", "ended"), ("healthcheck:a", "ended")]
    assert told(decider.see(end("failed"))) == [("watch", "ended"), ("healthcheck:a", "ended")]
    assert told(decider.see(end("cancelled"))) == []


def test_a_watcher_gets_no_letters_even_if_it_asks():
    decider = Decider([Target(kind="healthchecks", on=OCCASIONS)], jobs())
    assert told(decider.see(missed())) == []
    assert told(decider.see(end("failed", output_bytes=4))) == [("team", "ended")]


def test_a_run_much_slower_than_usual_is_told_while_it_runs():
    decider = Decider([Target(on=("slow",))], jobs())
    for number in range(5):
        decider.see(start(number, minutes=number))
        assert decider.next_due() is None
        decider.see(end("succeeded", number, minutes=number, duration_seconds=60.0 + number))
    decider.see(start(10, minutes=10))
    due = decider.next_due()
    assert due == AT + timedelta(minutes=10, seconds=62 * 3)
    assert decider.due(due - timedelta(seconds=1)) == []
    (message,) = decider.due(due)
    assert (message.occasion, message.run) == ("slow", 10)
    assert "usually 62.0 s" in message.why
    assert decider.due(due + timedelta(hours=1)) == []
    decider.see(start(11, minutes=300))
    decider.see(end("failed", 11, minutes=301))
    assert decider.due(AT + timedelta(days=1)) == []


def test_short_jobs_are_not_slow_for_half_a_minute():
    decider = Decider([Target(on=("slow",))], jobs())
    for number in range(9):
        decider.see(start(number))
        decider.see(end("succeeded", number, duration_seconds=0.01))
    assert decider.slow_limit("a") == timedelta(seconds=30.01)


class Plan:
    """A job due every hour from 09:00; the caller moves time."""

    def __init__(self) -> None:
        self.now = AT

    def next_slot(self, _job: str) -> datetime:
        return self.now.replace(minute=0, second=0) + timedelta(hours=1)


def test_a_slot_after_which_nothing_began_is_overdue_once():
    plan = Plan()
    decider = Decider(
        [Target(on=("overdue", "recovery"))],
        jobs(job("a", jitter=timedelta(minutes=2))),
        next_slot=plan.next_slot,
    )
    decider.see(events.Ready(ts=AT, pid=1, jobs=1))
    due = AT + timedelta(hours=1, minutes=2) + OVERDUE_AFTER
    assert decider.next_due() == due
    plan.now = due
    (message,) = decider.due(due)
    assert message.occasion == "overdue"
    assert message.slot == AT + timedelta(hours=1)
    plan.now = due + timedelta(hours=1)
    assert told(decider.due(plan.now)) == []  # still: told once
    assert told(decider.see(start(7, minutes=200))) == [("team", "recovery")]
    assert told(decider.see(end("succeeded", 7, minutes=201))) == []


def test_a_run_that_begins_in_time_moves_the_expectation_on():
    plan = Plan()
    decider = Decider([Target(on=("overdue",))], jobs(), next_slot=plan.next_slot)
    decider.see(events.Ready(ts=AT, pid=1, jobs=1))
    for hour in range(1, 50):
        plan.now = AT + timedelta(hours=hour, seconds=1)
        decider.see(start(hour, minutes=60 * hour))
        plan.now += OVERDUE_AFTER
        assert decider.due(plan.now) == []
    assert decider.next_due() == AT + timedelta(hours=50) + OVERDUE_AFTER


def test_a_paused_job_is_not_overdue():
    plan = Plan()
    decider = Decider([Target(on=("overdue",))], jobs(), next_slot=plan.next_slot)
    decider.see(events.Ready(ts=AT, pid=1, jobs=1))
    decider.see(events.JobPaused(ts=AT, job="a"))
    assert decider.due(AT + timedelta(days=1)) == []
    decider.see(events.JobResumed(ts=AT, job="a"))
    assert decider.next_due() is not None


def test_conditions_survive_a_restart():
    decider = Decider([Target()], jobs())
    decider.see(end("failed"))
    decider.see(end("failed"))
    kept = json.loads(json.dumps(decider.memory()))
    later = Decider([Target()], jobs())
    later.remember(kept)
    assert told(later.see(end("failed", minutes=5))) == []
    (message,) = later.see(end("succeeded", minutes=6))
    assert (message.occasion, message.count, message.since) == ("recovery", 3, AT)
    assert later.memory()["conditions"] == {}


def test_conditions_of_jobs_that_are_gone_are_forgotten():
    decider = Decider([Target()], jobs())
    decider.see(end("failed"))
    decider.configure([Target()], jobs(job("b")))
    assert decider.memory()["conditions"] == {}


def test_jobs_that_nobody_wants_to_hear_of_cost_no_memory():
    decider = Decider([Target(kind="healthchecks"), Target("s", on=("success",))], jobs())
    for number in range(100):
        decider.see(end("failed", number, name=f"job{number}"))
    assert decider.memory() == {"conditions": {}, "usual": {}}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["failed", "timed_out", "succeeded", "cancelled", "abandoned"])))
def test_failures_and_recoveries_alternate_whatever_happens(states):
    decider = Decider([Target()], jobs())
    unwell: set[str] = set()
    for number, state in enumerate(states):
        occasion = {"failed": "failure", "timed_out": "failure", "abandoned": "abandoned"}.get(state)
        got = [o for _, o in told(decider.see(end(state, number, minutes=number)))]
        if state == "succeeded":
            assert got == (["recovery"] if unwell else [])
            unwell = set()
        elif occasion:
            assert got == ([] if occasion in unwell else [occasion])
            unwell.add(occasion)
        else:
            assert got == []


def test_a_message_survives_json():
    message = Message(
        target="t",
        occasion="failure",
        job="a",
        at=AT,
        run=3,
        slot=AT,
        why="x",
        count=2,
        since=AT,
        duration_seconds=1.5,
    )
    assert Message.from_dict(json.loads(json.dumps({**message.as_dict(), "newer": 1}))) == message

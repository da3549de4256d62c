"""The pure decisions, as tables and properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echosched.model import Catchup, Overlap, Policy, State, Trigger
from echosched.policy import misfire, overlap, retry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(*minutes: float) -> list[datetime]:
    return [NOW - timedelta(minutes=n) for n in minutes]


@pytest.mark.parametrize(
    ("catchup", "minutes_late", "runs"),
    [
        (Catchup.LAST, (0,), [0]),
        (Catchup.LAST, (30, 20, 10), [2]),
        (Catchup.LAST, (25 * 60, 10), [1]),
        (Catchup.LAST, (25 * 60,), []),
        (Catchup.NONE, (30, 20, 10), []),
        (Catchup.NONE, (30, 0.4), [1]),
        (Catchup.NONE, (0.4, 0.2), [1]),
        (Catchup.ALL, (25 * 60, 20, 10), [1, 2]),
        (Catchup.ALL, (20, 10, 0), [0, 1, 2]),
    ],
)
def test_misfire_table(catchup: Catchup, minutes_late: tuple[float, ...], runs: list[int]) -> None:
    verdicts = misfire.judge(ago(*minutes_late), NOW, Policy(catchup=catchup))
    assert [n for n, verdict in enumerate(verdicts) if verdict.missed is None] == runs


@given(
    st.lists(st.integers(0, 3 * 86400), min_size=1, max_size=30, unique=True),
    st.sampled_from(Catchup),
    st.booleans(),
)
def test_every_due_slot_gets_exactly_one_verdict_in_order(
    ages: list[int], catchup: Catchup, more: bool
) -> None:
    slots = sorted(NOW - timedelta(seconds=age) for age in ages)
    verdicts = misfire.judge(slots, NOW, Policy(catchup=catchup), more=more)
    assert [verdict.slot for verdict in verdicts] == slots
    for verdict in verdicts:
        live = NOW - verdict.slot <= misfire.TOLERANCE
        if catchup is Catchup.ALL and (len(slots) > 1 or more):
            live = False  # a backlog, however fresh: overlap has no say in it
        assert verdict.trigger is (Trigger.SCHEDULE if live else Trigger.CATCHUP)
        assert verdict.missed is None or verdict.missed
    if more and catchup is not Catchup.ALL and len(slots) > 1:
        assert all(verdict.missed for verdict in verdicts)


@pytest.mark.parametrize(
    ("policy", "active", "waiting", "move"),
    [
        (Overlap.SKIP, 0, 0, "start"),
        (Overlap.SKIP, 1, 0, "skip"),
        (Overlap.QUEUE, 1, 0, "queue"),
        (Overlap.QUEUE, 2, 1, "skip"),
        (Overlap.QUEUE_ALL, 5, 4, "queue"),
        (Overlap.REPLACE, 1, 0, "replace"),
        (Overlap.ALLOW, 9, 0, "start"),
    ],
)
def test_overlap_table(policy: Overlap, active: int, waiting: int, move: str) -> None:
    verdict = overlap.judge(policy, active, waiting, earlier=7)
    assert verdict.move == move
    assert (verdict.reason is not None) == (move == "skip")


@given(st.integers(1, 500), st.integers(0, 500), st.floats(1, 10), st.floats(0, 0.999))
def test_retry_delays_stay_between_nine_tenths_of_the_step_and_the_ceiling(
    attempt: int, retries: int, backoff: float, spread: float
) -> None:
    policy = Policy(retries=retries, retry_backoff=backoff)
    wait = retry.delay(policy, attempt, State.FAILED, spread)
    if attempt > retries:
        assert wait is None
        return
    assert wait is not None
    assert policy.retry_delay * 0.9 <= wait <= policy.retry_max_delay


@pytest.mark.parametrize(
    "state", [State.SUCCEEDED, State.CANCELLED, State.ABANDONED, State.SKIPPED, State.MISSED]
)
def test_only_failures_and_time_outs_are_retried(state: State) -> None:
    assert retry.delay(Policy(retries=3), 1, state, 0.0) is None

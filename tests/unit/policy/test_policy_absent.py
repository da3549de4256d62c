"""Slots that came while no daemon ran are misfires, however short ago they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from echosched.model import Catchup, Policy, Trigger
from echosched.policy.misfire import judge


@pytest.mark.parametrize(
    ("catchup", "window", "missed"),
    [
        ("none", 86400, [True, True]),
        ("last", 86400, [True, False]),
        ("last", 2, [True, True]),
        ("all", 5, [True, False]),
    ],
)
def test_while_no_daemon_ran_no_slot_was_merely_late(catchup: str, window: int, missed: list[bool]) -> None:
    now = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
    slots = [now - timedelta(seconds=9), now - timedelta(seconds=4)]
    policy = Policy(catchup=Catchup(catchup), catchup_window=timedelta(seconds=window))
    verdicts = judge(slots, now, policy, absent_until=now - timedelta(seconds=1))
    assert [verdict.missed is not None for verdict in verdicts] == missed
    [alone] = judge(slots[1:], now, policy, absent_until=now - timedelta(seconds=1))
    assert (alone.missed is not None, alone.trigger) == (missed[1], Trigger.CATCHUP)
    [late] = judge(slots[1:], now, policy, absent_until=now - timedelta(seconds=5))
    assert (late.missed, late.trigger) == (None, Trigger.SCHEDULE)

"""How late an instance says its runs begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from echosched.events import RunStart
from echosched.model import Trigger
from echosched.scheduler.contact import Lags

SLOT = datetime(2026, 1, 1, tzinfo=UTC)


def start(late_seconds: float, *, attempt: int = 1, trigger: Trigger = Trigger.SCHEDULE) -> RunStart:
    at = SLOT + timedelta(seconds=late_seconds)
    return RunStart(ts=at, job="job", run=1, slot=SLOT, attempt=attempt, trigger=str(trigger), pid=1)


def test_before_the_first_start_no_lag_is_known() -> None:
    assert Lags().median_seconds is None


def test_the_lag_is_the_median_of_first_attempts_that_came_due() -> None:
    lags = Lags()
    for late in (0.1, 0.3, 0.2):
        lags.emit(start(late))
    lags.emit(start(60.0, attempt=2))  # it failed before
    lags.emit(start(3600.0, trigger=Trigger.CATCHUP))  # nobody was there
    lags.emit(start(9.0, trigger=Trigger.AFTER))
    assert lags.median_seconds == 0.2

"""How to test one's own schedules: a year of them, on a clock that does what it is told.

pytest examples/test_my_schedules.py
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from echosched import Context, Scheduler, State
from echosched.testing import FakeClock

BERLIN = ZoneInfo("Europe/Berlin")


class Shop:
    """What is to be tested: a program's jobs, with the clock and the outside world given from outside."""

    def __init__(self, clock: FakeClock) -> None:
        self.scheduler = Scheduler(clock=clock, timezone="Europe/Berlin")
        self.invoices: list[datetime] = []
        self.bank_is_open = True
        self.scheduler.job("0 9 L * *", name="invoices")(self.send_invoices)
        self.scheduler.job("30 2 * * *", name="close-day", retries=2, retry_delay="10m")(self.close_day)

    def send_invoices(self, run: Context) -> None:
        assert run.slot is not None
        self.invoices.append(run.slot.astimezone(BERLIN))

    async def close_day(self) -> None:
        if not self.bank_is_open:
            raise ConnectionError("the bank is closed")


def test_invoices_go_out_on_the_last_day_of_each_month() -> None:
    shop = Shop(FakeClock(datetime(2027, 1, 1, tzinfo=UTC)))
    shop.scheduler.rehearse(timedelta(days=365))
    assert [at.day for at in shop.invoices] == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert {at.hour for at in shop.invoices} == {9}


def test_the_day_is_closed_once_a_night_also_when_the_clocks_change() -> None:
    shop = Shop(FakeClock(datetime(2027, 1, 1, tzinfo=UTC)))
    runs = [run for run in shop.scheduler.rehearse(timedelta(days=365)) if run.job == "close-day"]
    nights = Counter(run.slot.astimezone(BERLIN).date() for run in runs if run.slot is not None)
    assert len(nights) == 365
    assert set(nights.values()) == {1}


def test_a_closed_bank_is_tried_three_times() -> None:
    shop = Shop(FakeClock())
    shop.bank_is_open = False
    (run,) = shop.scheduler.rehearse(timedelta(days=1))
    assert (run.state, run.attempt) == (State.FAILED, 3)
    assert run.error == "ConnectionError: the bank is closed"

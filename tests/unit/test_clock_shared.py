"""The clock of a database that many hosts share, and the wake-up that follows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from echosched.clock import SharedClock
from echosched.timer import ShiftedWakeup, make_wakeup


class Standing(SharedClock):
    """A shared clock whose host's boot clock is moved by hand."""

    stands = 1000.0

    def boot(self) -> float:
        return self.stands


def test_until_the_first_look_it_is_the_hosts_clock() -> None:
    clock = SharedClock()
    assert abs(datetime.now(UTC) - clock.now()) < timedelta(seconds=60)
    assert abs(clock.skew_seconds) < 60  # two looks at one clock, and a machine may rest between them


def test_it_goes_on_from_the_last_look_whatever_the_hosts_wall_clock_says() -> None:
    clock = Standing()
    there = datetime(2020, 1, 1, tzinfo=UTC)
    clock.look(there, 990.0)
    assert clock.now() == there + timedelta(seconds=10)
    clock.stands += 5
    assert clock.now() == there + timedelta(seconds=15)
    assert clock.skew_seconds > 5 * 365 * 86_400


class Alarm:
    def __init__(self) -> None:
        self.armed: list[float | None] = []
        self.closed = False

    def arm(self, epoch: float | None) -> None:
        self.armed.append(epoch)

    def close(self) -> None:
        self.closed = True


def test_a_wakeup_is_set_for_when_the_shared_clock_reaches_the_instant() -> None:
    clock, alarm = Standing(), Alarm()
    real = datetime.now(UTC)
    clock.look(real - timedelta(hours=1), clock.boot())  # the host is an hour ahead
    wakeup = ShiftedWakeup(alarm, clock)
    slot = (real - timedelta(hours=1) + timedelta(seconds=10)).timestamp()
    wakeup.arm(slot)
    wakeup.arm(None)
    wakeup.close()
    first, last = alarm.armed
    assert first is not None
    assert abs(first - (real + timedelta(seconds=10)).timestamp()) < 60
    assert last is None
    assert alarm.closed


async def test_a_shared_clock_gets_a_wakeup_that_follows_it() -> None:
    import asyncio

    woken = asyncio.Event()
    clock = SharedClock()
    clock.look(clock.now() - timedelta(days=1), clock.boot())
    wakeup = make_wakeup(asyncio.get_running_loop(), clock, woken.set)
    assert isinstance(wakeup, ShiftedWakeup)
    wakeup.arm(clock.now().timestamp() + 0.01)
    await asyncio.wait_for(woken.wait(), 30)
    wakeup.close()

"""Schedules against a scan that steps through real time and looks at the clock on the wall.

The scan knows nothing of bit sets, tables or records: it asks zoneinfo for the wall clock of one instant
after the other and applies the rule of daylight saving in the words of the manual. Both directions are
compared: no slot missing, none too many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echosched.schedule import parse_schedule

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
NOTABLE = [
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Caracas",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Pacific/Chatham",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Asia/Gaza",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "UTC",
]
ZONES = sorted(set(available_timezones()) - {"localtime", "Factory"}) if DEEP else NOTABLE
Matcher = Callable[[datetime], bool]


@cache
def changes(name: str) -> list[datetime]:
    """Return the UTC instants (1970–2037) at which the wall clock of a zone shifts, found by bisection."""
    zone, found = ZoneInfo(name), []
    step = timedelta(hours=12)
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    while moment < datetime(2037, 12, 31, tzinfo=UTC):
        low, high = moment, moment + step
        before = low.astimezone(zone).utcoffset()
        if high.astimezone(zone).utcoffset() != before:
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
                if middle.astimezone(zone).utcoffset() == before:
                    low = middle
                else:
                    high = middle
            found.append(high)
        moment += step
    return found


Look = tuple[datetime, datetime]


def looks(zone: ZoneInfo, begin: datetime, end: datetime, step: timedelta) -> list[Look]:
    """Return (instant, wall clock) step by step; starts a day and more early to know what is a repeat."""
    found = []
    moment = begin - timedelta(hours=26)
    while moment < end:
        found.append((moment, moment.astimezone(zone).replace(tzinfo=None, fold=0)))
        moment += step
    return found


def scan(
    seen: list[Look], matches: Matcher, star: bool, dst: str, begin: datetime, step: timedelta
) -> list[datetime]:
    """Return all slots from *begin* on, found by looking at one instant after the other."""
    every_match = star or dst == "every"
    slots: list[datetime] = []
    reached: datetime | None = None  # the furthest wall-clock time shown so far
    for moment, wall in seen:
        if every_match:
            fires = matches(wall)
        else:
            fresh = reached is None or wall > reached
            fires = fresh and matches(wall)
            if fresh and not fires and dst == "once" and reached is not None:
                skipped = reached + step
                while skipped < wall:  # the clock jumped over these
                    if matches(skipped):
                        fires = True
                        break
                    skipped += step
            if fresh:
                reached = wall
        if fires and moment >= begin:
            slots.append(moment)
    return slots


def walk(text: str, timezone: str, dst: str, begin: datetime, end: datetime) -> list[datetime]:
    schedule = parse_schedule(text, timezone, dst=dst)
    slots: list[datetime] = []
    moment = begin - timedelta(microseconds=1)
    while True:
        following = schedule.next_after(moment)
        if following is None or following >= end:
            return slots
        assert following > moment
        slots.append(following)
        moment = following


def some(rng: random.Random, low: int, high: int) -> tuple[str, set[int]]:
    """Return a cron field and the values it stands for."""
    kind = rng.randrange(6)
    every = set(range(low, high + 1))
    if kind == 0:
        return "*", every
    if kind == 1:
        step = rng.randint(2, 7)
        return f"*/{step}", set(range(low, high + 1, step))
    if kind == 2:
        a, b = sorted((rng.randint(low, high), rng.randint(low, high)))
        return f"{a}-{b}", set(range(a, b + 1))
    if kind == 3:
        a, b = sorted((rng.randint(low, high), rng.randint(low, high)))
        step = rng.randint(1, 7)
        return f"{a}-{b}/{step}", set(range(a, b + 1, step))
    values = {rng.randint(low, high) for _ in range(rng.randint(1, 3))}
    return ",".join(map(str, values)), values


def random_cron(rng: random.Random, moment: datetime, *, seconds: bool = False) -> tuple[str, Matcher, bool]:
    """Return a cron expression that tends to match near *moment* (wall clock), and what it should match."""
    minute, minutes = some(rng, 0, 59)
    hour, hours = some(rng, 0, 23)
    if rng.random() < 0.6:
        near = (moment.hour + rng.randint(-2, 2)) % 24
        hour, hours = str(near), {near}
    dom, doms = ("*", set(range(1, 32))) if rng.random() < 0.7 else some(rng, 1, 31)
    # A month and a day together may name no day at all, which is an error of its own.
    month, months = ("*", set(range(1, 13))) if dom != "*" or rng.random() < 0.8 else some(rng, 1, 12)
    dow, dows = ("*", set(range(7))) if rng.random() < 0.7 else some(rng, 0, 6)
    second, chosen = some(rng, 0, 59) if seconds else ("0", {0})
    both = dom.startswith("*") or dow.startswith("*")

    def matches(wall: datetime) -> bool:
        if wall.second not in chosen or wall.minute not in minutes or wall.hour not in hours:
            return False
        in_month, in_week = wall.day in doms, wall.isoweekday() % 7 in dows
        return wall.month in months and ((in_month and in_week) if both else (in_month or in_week))

    text = f"{minute} {hour} {dom} {month} {dow}"
    star = minute.startswith("*") or hour.startswith("*")
    return (f"{second} {text}" if seconds else text), matches, star


def compare(rng: random.Random, name: str, *, seconds: bool) -> None:
    shifts = changes(name)
    if shifts and rng.random() < 0.9:
        centre = rng.choice(shifts)
    else:
        centre = datetime(1970, 1, 4, tzinfo=UTC) + timedelta(seconds=30 * rng.randrange(70_000_000))
    zone = ZoneInfo(name)
    around = timedelta(hours=2) if seconds else timedelta(hours=28)
    begin, end = centre - around, centre + around
    # Since 1970 every offset is a multiple of 30 seconds (Monrovia had 44 min 30 s).
    step = timedelta(seconds=1) if seconds else timedelta(seconds=30)
    text, matches, star = random_cron(rng, centre.astimezone(zone).replace(tzinfo=None), seconds=seconds)
    dst = rng.choice(["once", "once", "skip", "every"])
    found = walk(text, name, dst, begin, end)
    expected = scan(looks(zone, begin, end, step), matches, star, dst, begin, step)
    assert found == expected, (text, name, dst, centre.isoformat())


@pytest.mark.timeout(3600 if DEEP else 120)
@settings(max_examples=2000 if DEEP else 25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(ZONES))
def test_cron_agrees_with_a_scan_of_the_wall_clock(seed: int, name: str) -> None:
    compare(random.Random(seed), name, seconds=False)


@pytest.mark.timeout(3600 if DEEP else 120)
@settings(max_examples=300 if DEEP else 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(ZONES))
def test_cron_with_seconds_agrees_with_a_scan_of_the_wall_clock(seed: int, name: str) -> None:
    compare(random.Random(seed), name, seconds=True)


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ZONES)
def test_cron_agrees_with_a_scan_at_every_shift_of(name: str) -> None:
    rng = random.Random(name)
    zone = ZoneInfo(name)
    step = timedelta(seconds=30)
    for centre in changes(name):
        begin, end = centre - timedelta(hours=14), centre + timedelta(hours=14)
        seen = looks(zone, begin, end, step)
        text, matches, star = random_cron(rng, centre.astimezone(zone).replace(tzinfo=None))
        for dst in ("once", "skip", "every"):
            expected = scan(seen, matches, star, dst, begin, step)
            assert walk(text, name, dst, begin, end) == expected, (text, name, dst, centre.isoformat())

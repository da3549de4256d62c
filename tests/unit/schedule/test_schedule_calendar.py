"""Calendar expressions: by table, and against systemd itself where daylight saving plays no part."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from echosched.errors import ScheduleError
from echosched.schedule import parse_schedule

from .slots import upcoming

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
ANALYZE = shutil.which("systemd-analyze")


def slots(text: str, start: str, count: int, timezone: str = "UTC") -> list[str]:
    return upcoming(parse_schedule(text, timezone), datetime.fromisoformat(start).replace(tzinfo=UTC), count)


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("Mon..Fri *-*-* 08:00", "2026-01-02 09:00", ["2026-01-05 08:00", "2026-01-06 08:00"]),
        ("mon,wednesday..Thu 8:5", "2026-01-01 09:00", ["2026-01-05 08:05", "2026-01-07 08:05"]),
        ("Sat", "2026-01-01 00:00", ["2026-01-03 00:00"]),
        ("12-25", "2026-01-01 00:00", ["2026-12-25 00:00", "2027-12-25 00:00"]),
        ("2026-*-01 12:00", "2026-11-15 00:00", ["2026-12-01 12:00"]),
        ("26-03-04", "2026-01-01 00:00", ["2026-03-04 00:00"]),
        ("*:0/20", "2026-01-01 00:30", ["2026-01-01 00:40", "2026-01-01 01:00"]),
        ("*:5,10", "2026-01-01 00:06", ["2026-01-01 00:10", "2026-01-01 01:05"]),
        (
            "*-*-* 9..17/4:30",
            "2026-01-01 00:00",
            ["2026-01-01 09:30", "2026-01-01 13:30", "2026-01-01 17:30"],
        ),
        ("*-*~03", "2026-01-01 00:00", ["2026-01-29 00:00", "2026-02-26 00:00"]),
        ("*-02~01", "2026-03-01 00:00", ["2027-02-28 00:00", "2028-02-29 00:00"]),
        ("Mon *-05~07/1", "2026-01-01 00:00", ["2026-05-25 00:00", "2027-05-31 00:00"]),
        ("*-*~1..3/2", "2026-02-01 00:00", ["2026-02-26 00:00", "2026-02-28 00:00"]),
        ("*:*:0/30", "2026-01-01 00:00", ["2026-01-01 00:00:30", "2026-01-01 00:01"]),
        ("*:*:59.9999995", "", []),
        ("8:00:00.5", "2026-01-01 00:00", ["2026-01-01 08:00:00.500000"]),
        ("*:0:0/0.25", "2026-01-01 00:00", ["2026-01-01 00:00:00.250000", "2026-01-01 00:00:00.500000"]),
        ("*:*:1.000001,2", "2026-01-01 00:00", ["2026-01-01 00:00:01.000001", "2026-01-01 00:00:02"]),
        ("minutely", "2026-01-01 00:00", ["2026-01-01 00:01"]),
        ("HOURLY", "2026-01-01 00:00", ["2026-01-01 01:00"]),
        ("daily", "2026-01-01 00:00", ["2026-01-02 00:00"]),
        ("weekly", "2026-01-01 00:00", ["2026-01-05 00:00"]),
        ("monthly", "2026-01-01 00:00", ["2026-02-01 00:00"]),
        ("quarterly", "2026-01-01 00:00", ["2026-04-01 00:00", "2026-07-01 00:00"]),
        ("semi-annually", "2026-01-01 00:00", ["2026-07-01 00:00", "2027-01-01 00:00"]),
        ("yearly", "2026-01-01 00:00", ["2027-01-01 00:00"]),
        ("08:00 Europe/Berlin", "2026-07-01 00:00", ["2026-07-01 06:00"]),
        ("weekly Asia/Tokyo", "2026-01-01 00:00", ["2026-01-04 15:00"]),
        ("Mon 08:00 utc", "2026-01-01 00:00", ["2026-01-05 08:00"]),
        ("2199-12-31 23:59:59", "2026-01-01 00:00", ["2199-12-31 23:59:59"]),
        ("1999-01-01", "2026-01-01 00:00", []),
    ],
)
def test_an_expression_fires_when_the_manual_says(text: str, start: str, expected: list[str]) -> None:
    if not start:  # rounds up to a sixtieth second, which does not exist
        with pytest.raises(ScheduleError, match=r"second must be 0–59\.999999"):
            parse_schedule(text)
        return
    assert slots(text, start, max(len(expected), 1)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("*-13-01", "month must be 1–12, not 13"), ("*-*-32", "day must be 1–31, not 32"),
        ("*-*~29", "day from the month's end must be 1–28, not 29"), ("1969-01-01", "year must be 1970–2199"),
        ("2200-01-01", "year must be 1970–2199"), ("24:00", "hour must be 0–23, not 24"),
        ("8:60", "minute must be 0–59, not 60"), ("8:0:60", "second must be 0–59.999999, not 60"),
        ("Foo 8:00", "weekday must be Mon–Sun, not Foo"), ("Fri..Mon", "weekday range Fri..Mon runs backwards"),
        ("Mon..Tue..Wed", "weekday must be Mon–Sun"), (",Mon", "weekday"), ("*-*-3..1", "runs backwards"),
        ("*-*-* */2:00", "such as 0/5"), ("*:0/0", "repetition must be at least 1"),
        ("*-*-* 0/24:00", "never comes round within 0–23"), ("*:*:1..1.5/0.1", ""),
        ("*:*:1..1.5", "shorter than a second"),
        ("8:", "minute must be 0–59, not empty"), ("8:0:", "second must be"), ("1:2:3:4", "time must be hour:minute"),
        ("1-2-3-4", "date must be"), ("2026~01-01", "date must be"), ("*-*-1,,2", "not empty in 1,,2"),
        ("*-02-30", "never fires"), ("2027-02-29", "never fires"), ("Mon 2026-01-06", "never fires"),
        ("08:00 Mars/Olympus", "unknown time zone"), ("Mon Tue 08:00", "neither"), ("12", "neither"),
        ("Mon 08:00 08:00", "neither"), ("*-*-٣", "day must be"), ("08:00 +0200", "neither"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_component_and_range(text: str, part: str) -> None:
    if not part:
        assert parse_schedule(f"calendar {text}") is not None
        return
    with pytest.raises(ScheduleError) as caught:
        parse_schedule(f"calendar {text}")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ── systemd as the oracle ─────────────────────────────────────────────────────────────────────


def oracle(text: str, count: int) -> tuple[datetime, list[datetime]] | None:
    """Return (the present it counted from, at most *count* slots) as systemd has it; ``None``: refused."""
    assert ANALYZE is not None
    before = datetime.now(UTC)
    answer = subprocess.run(
        [ANALYZE, "calendar", f"--iterations={count}", text],
        capture_output=True, text=True, check=False, timeout=60,
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    if answer.returncode:
        return None
    found: list[datetime] = []
    for line in answer.stdout.splitlines():
        label, _, value = line.strip().partition(": ")
        moment = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", value)
        if label == "(in UTC)" and moment:
            found[-1] = datetime.fromisoformat(moment[0]).replace(tzinfo=UTC)
        elif (label.startswith("Iter. #") or label == "Next elapse") and moment:
            found.append(datetime.fromisoformat(moment[0]).replace(tzinfo=UTC))
    return before, found


def piece(rng: random.Random, low: int, high: int) -> str:
    """Return a component of a calendar expression, sometimes a wrong one."""
    if rng.random() < 0.3:
        return "*"
    items = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        first = rng.randint(low, high + (rng.random() < 0.03))
        item = f"{first:02}" if rng.random() < 0.5 else str(first)
        if rng.random() < 0.25:
            item += f"..{rng.randint(min(first, high) if rng.random() < 0.9 else low, high)}"
        if rng.random() < 0.25:
            item += f"/{rng.randint(0 if rng.random() < 0.05 else 1, max(2, (high - low) // 3))}"
        items.append(item)
    return ",".join(items)


def random_calendar(rng: random.Random) -> str:
    words = []
    if rng.random() < 0.3:
        days = ["Mon", "tue", "Wednesday", "Thu", "FRI", "Sat", "Sunday"]
        first = rng.randrange(7)
        words.append(days[first] if rng.random() < 0.5 else f"{days[first]}..{days[rng.randrange(first, 7)]}")
        if rng.random() < 0.3:
            words[0] += f",{rng.choice(days)}"
    if rng.random() < 0.7:
        month, day = piece(rng, 1, 12), piece(rng, 1, 31)
        joint = "-"
        if rng.random() < 0.3:
            joint, day = "~", piece(rng, 1, 28)
        year = "" if rng.random() < 0.3 else f"{piece(rng, 2026, 2045) if rng.random() < 0.4 else '*'}-"
        words.append(f"{year}{month}{joint}{day}")
    if rng.random() < 0.8 or not words:
        time = f"{piece(rng, 0, 23)}:{piece(rng, 0, 59)}"
        words.append(time if rng.random() < 0.6 else f"{time}:{piece(rng, 0, 59)}")
    return " ".join(words)


def agrees(text: str, timezone: str = "UTC", count: int = 8) -> bool | None:
    """Compare with systemd; ``None``: both refuse."""
    answer = oracle(text, count)
    try:
        schedule = parse_schedule(f"calendar {text}", timezone)
    except ScheduleError as error:
        # What can never fire is an error here and "never" there.
        if answer is None:
            return None
        return "never fires" in str(error) and not answer[1]
    if answer is None and re.search(r"~[^ ]*,", text):
        return None  # systemd 252 lowers its limit by three for each further item of such a list
    assert answer is not None, f"{text!r}: accepted here, refused by systemd"
    before, expected = answer
    if not expected:
        return schedule.next_after(before + timedelta(minutes=1)) is None
    found = []
    # systemd counted from a moment a little after ours: start where its first slot is.
    moment = expected[0] - timedelta(microseconds=1)
    assert schedule.next_after(moment) is not None, text
    gap = schedule.next_after(before)
    assert gap is not None, text
    # Nothing may lie between our start and its first slot, but what passed in between.
    assert gap.replace(microsecond=0) >= expected[0] - timedelta(seconds=60), text
    for _ in expected:
        following = schedule.next_after(moment)
        assert following is not None, (text, expected)
        found.append(following.replace(microsecond=0))
        moment = following
    assert found == expected, text
    return True


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is the oracle")
def test_random_expressions_mean_what_they_mean_to_systemd() -> None:
    rng = random.Random(20261121)
    both_refuse = compared = 0
    for _ in range(3000 if DEEP else 40):
        verdict = agrees(random_calendar(rng))
        assert verdict is not False
        both_refuse += verdict is None
        compared += verdict is True
    assert compared > 12
    assert both_refuse > 0


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is the oracle")
@pytest.mark.parametrize(
    "text",
    [
        "minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "biannually", "bi-annually",
        "semiannually", "semi-annually", "annually", "anually", "yearly", "Mon,", "Mon, 08:00", "Mon-Fri",
        "Thu,Thu 1:1", "*-*~07/1", "*-*~28/5", "5~5", "*~5", "*-5~1..3/2", "2027..2039/3-1-1", "99-1-1",
        "*:0:0,30/10", "*:7/9:3..50/11", "2027-*-1/10 12:00", "Sun *-02-29", "12:30 Asia/Tokyo", "weekly utc",
        "*-*-* */2:00", "*-*-01,*", "8:0:1.", "*:*:.5", "*:10..20/15", "@1995716396", "1-1..3 0:0:0",
    ],
)  # fmt: skip
def test_odd_corners_are_systemds(text: str) -> None:
    assert agrees(text) is not False


# ── the scan of the wall clock, for calendar expressions ──────────────────────────────────────


def test_calendar_and_cron_agree_where_both_can_say_it() -> None:
    rng = random.Random(7)
    zones = ["Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "UTC"]
    for _ in range(400 if DEEP else 60):
        hours = sorted({rng.randrange(24) for _ in range(2)})
        minutes = sorted({rng.randrange(60) for _ in range(2)})
        hour = "*" if rng.random() < 0.2 else ",".join(map(str, hours))
        minute = "*" if rng.random() < 0.1 else ",".join(map(str, minutes))
        day = "*" if rng.random() < 0.5 else str(rng.randint(1, 28))
        zone, dst = rng.choice(zones), rng.choice(("once", "skip", "every"))
        cron = parse_schedule(f"{minute} {hour} {day} * *", zone, dst=dst)
        calendar = parse_schedule(f"*-*-{day} {hour}:{minute}", zone, dst=dst)
        moment = datetime(2011, 1, 1, tzinfo=ZoneInfo(zone)) + timedelta(minutes=rng.randrange(9_000_000))
        for _ in range(40):
            following = cron.next_after(moment)
            assert calendar.next_after(moment) == following, (cron, moment)
            assert following is not None
            moment = following + timedelta(days=rng.choice((0, 0, 1, 20)))

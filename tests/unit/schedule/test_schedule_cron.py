"""cron expressions by table: what each form means, and what each mistake is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from echosched.errors import ScheduleError
from echosched.schedule import parse_schedule

from .slots import upcoming


def slots(text: str, start: str, count: int, timezone: str = "UTC", **options: str) -> list[str]:
    """Return the next wall-clock slots after *start* (wall clock), as ``2026-03-01 00:00`` or with seconds."""
    zone = ZoneInfo(timezone)
    schedule = parse_schedule(text, timezone, **options)  # type: ignore[arg-type]
    moment = datetime.fromisoformat(start).replace(tzinfo=zone).astimezone(UTC)
    return upcoming(schedule, moment, count, zone)


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("* * * * *", "2026-01-01 00:00", ["2026-01-01 00:01", "2026-01-01 00:02"]),
        ("*/15 * * * *", "2026-01-01 00:40", ["2026-01-01 00:45", "2026-01-01 01:00"]),
        ("10/20 * * * *", "2026-01-01 00:00", ["2026-01-01 00:10", "2026-01-01 00:30", "2026-01-01 00:50"]),
        ("5-20/5 * * * *", "2026-01-01 00:16", ["2026-01-01 00:20", "2026-01-01 01:05"]),
        ("0 8 * * *", "2026-01-01 08:00", ["2026-01-02 08:00"]),
        ("0 8 * * *", "2026-12-31 08:00", ["2027-01-01 08:00"]),
        ("08 08 * * *", "2026-01-01 00:00", ["2026-01-01 08:08"]),
        ("0 9 * * 1-5", "2026-03-06 09:00", ["2026-03-09 09:00", "2026-03-10 09:00"]),
        ("0 9 * * mon-fri", "2026-03-06 09:00", ["2026-03-09 09:00"]),
        ("0 0 * jan,JUL *", "2026-02-01 00:00", ["2026-07-01 00:00", "2026-07-02 00:00"]),
        # Sunday is 0 and 7, and may end a range.
        ("0 0 * * 0", "2026-03-01 00:00", ["2026-03-08 00:00"]),
        ("0 0 * * 7", "2026-03-01 00:00", ["2026-03-08 00:00"]),
        ("0 0 * * Fri-Sun", "2026-03-01 00:00", ["2026-03-06 00:00", "2026-03-07 00:00", "2026-03-08 00:00"]),
        ("0 0 * * 5-7", "2026-03-01 00:00", ["2026-03-06 00:00", "2026-03-07 00:00", "2026-03-08 00:00"]),
        ("0 0 * * Sun-Tue", "2026-03-01 00:00", ["2026-03-02 00:00", "2026-03-03 00:00", "2026-03-08 00:00"]),
        ("0 0 * * Sun-Sun", "2026-03-01 00:00", ["2026-03-08 00:00", "2026-03-15 00:00"]),
        # Vixie's day rule: both must match if either starts with a star, otherwise either.
        ("0 0 13 * 5", "2026-03-01 00:00", ["2026-03-06 00:00", "2026-03-13 00:00", "2026-03-20 00:00"]),
        ("0 0 */13 * 5", "2026-03-01 00:00", ["2026-03-27 00:00", "2026-05-01 00:00"]),
        ("0 0 13 * */5", "2026-03-01 00:00", ["2026-03-13 00:00", "2026-09-13 00:00"]),
        ("0 0 1-7 * *", "2026-03-01 00:00", ["2026-03-02 00:00"]),
        ("0 0 1-31 * 1", "2026-03-01 00:00", ["2026-03-02 00:00", "2026-03-03 00:00"]),
        ("0 0 ? * Mon", "2026-03-01 00:00", ["2026-03-02 00:00", "2026-03-09 00:00"]),
        ("0 0 15 * ?", "2026-03-01 00:00", ["2026-03-15 00:00", "2026-04-15 00:00"]),
        # From the month's end, near a weekday, by ordinal.
        ("0 0 L * *", "2026-01-31 00:00", ["2026-02-28 00:00", "2026-03-31 00:00"]),
        ("0 0 L * *", "2028-02-01 00:00", ["2028-02-29 00:00"]),
        ("0 0 L-2 * *", "2026-02-01 00:00", ["2026-02-26 00:00", "2026-03-29 00:00"]),
        ("0 0 1,L * *", "2026-02-01 00:00", ["2026-02-28 00:00", "2026-03-01 00:00"]),
        ("0 0 LW * *", "2026-05-01 00:00", ["2026-05-29 00:00", "2026-06-30 00:00"]),
        ("0 0 15W * *", "2026-02-01 00:00", ["2026-02-16 00:00", "2026-03-16 00:00", "2026-04-15 00:00"]),
        ("0 0 1W * *", "2026-07-31 00:00", ["2026-08-03 00:00", "2026-09-01 00:00"]),  # never into July
        ("0 0 31W * *", "2026-01-31 00:00", ["2026-03-31 00:00", "2026-05-29 00:00"]),  # February has no 31st
        ("0 0 * * 5L", "2026-03-01 00:00", ["2026-03-27 00:00", "2026-04-24 00:00"]),
        ("0 0 * * FriL", "2026-03-01 00:00", ["2026-03-27 00:00"]),
        ("0 0 * * 7L", "2026-03-01 00:00", ["2026-03-29 00:00"]),
        ("0 0 * * 5#2", "2026-03-01 00:00", ["2026-03-13 00:00", "2026-04-10 00:00"]),
        ("0 0 * * Mon#5", "2026-01-01 00:00", ["2026-03-30 00:00", "2026-06-29 00:00"]),
        (
            "0 0 * * Mon#1,Fri",
            "2026-03-01 00:00",
            ["2026-03-02 00:00", "2026-03-06 00:00", "2026-03-13 00:00"],
        ),
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29 00:00"]),  # 2100 is no leap year
        ("0 0 29 2 */7", "2026-01-01 00:00", ["2032-02-29 00:00", "2060-02-29 00:00"]),
        # Seconds first, year last.
        (
            "*/20 * * * * *",
            "2026-01-01 00:00",
            ["2026-01-01 00:00:20", "2026-01-01 00:00:40", "2026-01-01 00:01"],
        ),
        ("30 0 8 * * *", "2026-01-01 08:00:30", ["2026-01-02 08:00:30"]),
        ("0 0 0 1 1 * 2030", "2026-01-01 00:00", ["2030-01-01 00:00"]),
        ("0 0 0 1 * * 2030-2031/1", "2030-12-01 00:00", ["2031-01-01 00:00", "2031-02-01 00:00"]),
        ("0 0 0 29 2 * 2027-2033", "2026-01-01 00:00", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("@hourly", "2026-01-01 00:30", ["2026-01-01 01:00"]),
        ("@daily", "2026-01-01 00:30", ["2026-01-02 00:00"]),
        ("@midnight", "2026-01-01 00:30", ["2026-01-02 00:00"]),
        ("@weekly", "2026-03-02 00:00", ["2026-03-08 00:00"]),
        ("@monthly", "2026-01-01 00:30", ["2026-02-01 00:00"]),
        ("@yearly", "2026-01-01 00:30", ["2027-01-01 00:00"]),
        ("@Annually", "2026-01-01 00:30", ["2027-01-01 00:00"]),
        ("cron 0 8 * * *", "2026-01-01 00:00", ["2026-01-01 08:00"]),
        ("\t0  8\t* * * ", "2026-01-01 00:00", ["2026-01-01 08:00"]),
        ("*/60 */24 * * *", "2026-01-01 00:00", ["2026-01-02 00:00"]),
    ],
)
def test_an_expression_fires_when_the_manual_says(text: str, start: str, expected: list[str]) -> None:
    assert slots(text, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("61 * * * *", "minute must be 0–59, not 61"),
        ("-1 * * * *", "minute must be 0–59, not empty in -1"),
        ("* 24 * * *", "hour must be 0–23, not 24"),
        ("* * 0 * *", "day-of-month must be 1–31, not 0"),
        ("* * 32 * *", "day-of-month must be 1–31, not 32"),
        ("* * * 13 *", "month must be 1–12 or JAN–DEC, not 13"),
        ("* * * foo *", "month must be 1–12 or JAN–DEC, not FOO"),
        ("* * * * 8", "day-of-week must be 0–7 or SUN–SAT, not 8"),
        ("* * * * Montag", "day-of-week must be 0–7 or SUN–SAT, not MONTAG"),
        ("60 * * * * *", "second must be 0–59, not 60"),
        ("0 0 0 1 1 * 1969", "year must be 1970–2199, not 1969"),
        ("*/0 * * * *", "minute step must be 1–60, not 0 in */0"),
        ("*/90 * * * *", "minute step must be 1–60, not 90 in */90"),
        ("2/ * * * *", "minute step must be 1–60, not empty in 2/"),
        ("1//2 * * * *", "minute step must be 1–60, not /2 in 1//2"),
        ("*/-5 * * * *", "minute step must be 1–60, not -5"),
        ("30-10 * * * *", "minute range 30-10 runs backwards: must be 0–59"),
        ("0 22-4 * * *", "hour range 22-4 runs backwards"),
        ("0 0 * * Sat-Mon", "day-of-week range SAT-MON runs backwards"),
        ("0 0 * * 5-0", "day-of-week range 5-0 runs backwards"),
        ("0 0 * Nov-Feb *", "month range NOV-FEB runs backwards"),
        ("1,,2 * * * *", "minute has an empty list item in 1,,2"),
        (",1 * * * *", "minute has an empty list item in ,1"),
        ("1, * * * *", "minute has an empty list item in 1,"),
        ("1- * * * *", "minute must be 0–59, not empty in 1-"),
        ("1-2-3 * * * *", "minute must be 0–59, not 2-3"),
        ("*5 * * * *", "minute must be 0–59, not *5"),
        ("? * * * *", "minute must be 0–59, not ?"),
        ("L * * * *", "minute must be 0–59, not L"),
        ("1.5 * * * *", "minute must be 0–59, not 1.5"),
        ("+1 * * * *", "minute must be 0–59, not +1"),
        ("1_0 * * * *", "minute must be 0–59, not 1_0"),
        ("99999999999999999999999 * * * *", "minute must be 0–59"),
        ("٣ * * * *", "plain ASCII"),
        ("5 ٨ * * *", "plain ASCII"),
        ("² * * * *", "plain ASCII"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 0 29 2 * 2027", "never fires"),
        ("0 0 15W * */6 ", ""),  # Sunday and Saturday: the nearest weekday is neither
        ("0 0 L-31 * *", "offset from the last day must be 0–30, not 31"),
        ("0 0 L- * *", "offset from the last day must be 0–30, not empty"),
        ("0 0 W * *", "day-of-month must be 1–31"),
        ("0 0 32W * *", "day-of-month must be 1–31, not 32"),
        ("0 0 * * L", "needs a weekday"),
        ("0 0 * * 8L", "day-of-week must be 0–7"),
        ("0 0 * * 5#6", "ordinal after # must be 1–5, not 6"),
        ("0 0 * * 5#", "ordinal after # must be 1–5, not empty"),
        ("0 0 * * #2", "day-of-week must be 0–7"),
        ("H(5) * * * *", "H(first-last)"),
        ("H(30-10) * * * *", "runs backwards"),
        ("H(0-99) * * * *", "minute must be 0–59, not 99"),
        ("HH * * * *", "minute must be 0–59, not HH"),
        (
            "* * * * * * * *",
            "has 5 fields (6 with seconds first, 7 with the year last), not 8 (in a shell, put the",
        ),
        ("cron * * * *", "has 5 fields (6 with seconds first, 7 with the year last), not 4"),
        ("@fortnightly", "unknown nickname"),
        ("@daily 5", "unknown nickname"),
    ],
)
def test_a_mistake_names_field_value_and_range_in_one_line(text: str, part: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_schedule(text)
    message = str(caught.value)
    assert part in message
    assert message.startswith('"' + text[:10].strip())
    assert "\n" not in message


def test_a_control_character_in_a_bad_expression_is_escaped_in_its_message() -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_schedule("cron \x1b[31m * * * *")
    assert "\x1b" not in str(caught.value)


def test_h_is_stable_and_spreads_jobs() -> None:
    def minute(name: str) -> int:
        following = parse_schedule("H * * * *", name=name).next_after(datetime(2026, 1, 1, tzinfo=UTC))
        assert following is not None
        return following.minute

    # Frozen for ever: a new version that moved these would move everybody's jobs.
    assert [minute(name) for name in ("brief", "report", "selfheal", "backup", "ä")] == FROZEN_MINUTES
    chosen = [minute(f"job{i}") for i in range(600)]
    assert {chosen.count(value) > 0 for value in range(60)} == {True}
    assert max(chosen.count(value) for value in range(60)) < 30


FROZEN_MINUTES = [31, 26, 0, 22, 31]


def test_h_keeps_to_its_range_and_step() -> None:
    for name in ("a", "b", "c", "d", "e"):
        found = slots("H(10-19)/5 H * * *", "2026-01-01 00:00", 4, name=name)
        minutes = [int(slot[14:16]) for slot in found]
        assert all(10 <= minute <= 19 for minute in minutes)
        assert {abs(a - b) for a, b in pairwise(minutes)} == {5}
        days = slots("0 0 H * *", "2026-01-01 00:00", 24, name=name)
        assert all(1 <= int(day[8:10]) <= 28 for day in days)
        assert len({day[8:10] for day in days}) == 1


def test_different_fields_of_one_job_are_hashed_apart() -> None:
    found = {slots("H H * * *", "2026-01-01 00:00", 1, name=f"job{i}")[0][11:] for i in range(200)}
    assert len(found) > 150


def test_equal_texts_share_one_object_and_names_matter_only_with_h() -> None:
    assert parse_schedule("1 2 3 4 *", name="a") is parse_schedule("1 2 3 4 *", name="b")
    assert parse_schedule("every 6h", name="a") is parse_schedule("every 6h", name="b")
    assert parse_schedule("H 2 * * *", name="a") is not parse_schedule("H 2 * * *", name="b")
    assert parse_schedule("1 2 3 4 *") is not parse_schedule("1 2 3 4 *", "Europe/Berlin")
    assert parse_schedule("1 2 3 4 *") is not parse_schedule("1 2 3 4 *", dst="skip")


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        parse_schedule("* * * * *").next_after(datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_ends_of_the_calendar_are_no_trap() -> None:
    for text in ("* * * * *", "0 0 29 2 *", "0 0 1 1 *", "*/7 * * * * *", "Mon 08:00", "every 1h"):
        for zone in ("UTC", "Pacific/Kiritimati", "America/Los_Angeles"):
            schedule = parse_schedule(text, zone)
            first = schedule.next_after(datetime.min.replace(tzinfo=UTC))
            assert first is not None
            assert first.year < 10
            last = datetime.max.replace(tzinfo=UTC)
            assert schedule.next_after(last) is None
            late = schedule.next_after(last - timedelta(days=500))
            assert late is None or late > last - timedelta(days=500)

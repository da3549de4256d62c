"""Hostile input: whatever the text, the answer is a schedule or one line, soon."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echosched.errors import ScheduleError
from echosched.schedule import explain, parse_after, parse_duration, parse_schedule, transitions

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
PIECES = [
    "*", "?", "L", "W", "LW", "H", "#", "/", "-", ",", "~", "..", ".", ":", " ", "  ", "@", "0", "1", "5", "7", "29",
    "31", "59", "60", "100", "2026", "9999", "Mon", "Fri", "SUN", "jan", "Dec", "every", "at", "cron", "calendar",
    "after", "from", "6h", "90s", "1w", "500ms", "@every", "@daily", "@boot", "weekly", "08:00", "2026-12-01", "T09:00",
    "Z", "UTC", "Europe/Berlin", "+02:00", "H(0-5)", "5L", "5#2", "15W", "L-3", "*/5", "1-5", "ä", "٣", "\n", "\t",
    "\x00", "",
]  # fmt: skip
STARTS = [
    datetime(2026, 3, 29, 0, 30, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
]
MANY = settings(max_examples=20_000 if DEEP else 120, deadline=None, suppress_health_check=list(HealthCheck))


def survive(text: str, zone: str = "Europe/Berlin", dst: str = "once") -> bool:
    """Parse *text* and use the schedule; return whether it was one."""
    try:
        schedule = parse_schedule(text, zone, name="fuzz", dst=dst)
    except ScheduleError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 1000
        return False
    begin = time.thread_time()
    for start in STARTS:
        moment = start
        for _ in range(3):
            following = schedule.next_after(moment)
            if following is None:
                break
            assert following > moment
            moment = following
    assert explain(schedule).isprintable()
    transitions(schedule, STARTS[0], STARTS[0] + timedelta(days=366))
    assert time.thread_time() - begin < 2, f"{text!r} took too long"
    return True


@MANY
@given(st.text(max_size=60), st.sampled_from(["once", "skip", "every"]))
def test_any_text_is_a_schedule_or_one_line(text: str, dst: str) -> None:
    survive(text, dst=dst)
    for parse in (parse_after, parse_duration):
        with suppress(ScheduleError):
            parse(text)


@MANY
@given(
    st.lists(st.sampled_from(PIECES), max_size=14),
    st.sampled_from(["", " "]),
    st.sampled_from(["once", "every"]),
)
def test_pieces_of_grammar_in_any_order_are_a_schedule_or_one_line(
    pieces: list[str], glue: str, dst: str
) -> None:
    survive(glue.join(pieces), "Pacific/Apia", dst)


def test_nearly_right_expressions_are_a_schedule_or_one_line() -> None:
    rng = random.Random(3)
    good = [
        "*/5 * * * *", "0 9 * * 1-5", "0 0 L * Fri#2", "30 0 8 1,15W * ? 2026-2030/2", "H(0-29)/10 H * * *",
        "Mon..Fri *-*-* 08:00:00 Europe/Berlin", "*-*~07/1 0/6:30", "2026..2030-1,2-3 *:*:0/0.25",
        "every 90s from 2026-01-01T00:00Z", "at 2026-12-01T09:00:30.5+01:00", "@every 1h30m", "semi-annually",
    ]  # fmt: skip
    right = 0
    for _ in range(100_000 if DEEP else 800):
        text = list(rng.choice(good))
        for _ in range(rng.randint(0, 2)):
            position = rng.randrange(len(text) + 1)
            action = rng.randrange(3)
            if action == 0:
                text.insert(position, rng.choice("0123456789*,-/LWH#?~.:@ ZaMT"))
            elif text and action == 1:
                del text[min(position, len(text) - 1)]
            elif text:
                text[min(position, len(text) - 1)] = rng.choice("0123456789*,-/LWH#?~.:@ ZaMT")
        right += survive("".join(text), dst=rng.choice(["once", "skip", "every"]))
    assert right > 150


def test_white_space_inside_never_reaches_a_message() -> None:
    for text in (
        "90s  \n6h\t",
        "every 0s \n 0s",
        "0 8\t* *\n 8",
        "Mon\n08:00 \t Mars/Olympus",
        "at\t2026-13-01\n09:00",
    ):
        assert not survive(text)


def test_the_worst_searches_end_soon() -> None:
    begin = time.thread_time()
    for text in (
        "0 0 29 2 */7",
        "0 0 0 29 2 * 2196",
        "Sun *-02-29",
        "0 0 * 2 Sun#5",
        "0 0 31W 12 *",
        "@9999999999",
    ):
        for dst in ("once", "skip", "every"):
            schedule = parse_schedule(text, "America/New_York", dst=dst)
            for year in (1, 1900, 2026, 2096, 2195, 3000, 9700, 9990):
                schedule.next_after(datetime(year, 3, 1, tzinfo=UTC))
    never = parse_schedule("Sun *-03-08..14 02:00..59", "America/New_York", dst="skip")
    assert never.next_after(datetime(2026, 4, 1, tzinfo=UTC)) is None
    assert time.thread_time() - begin < 3

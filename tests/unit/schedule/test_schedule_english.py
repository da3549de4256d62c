"""``explain`` in plain English."""

from __future__ import annotations

import pytest

from echosched.schedule import explain, parse_schedule

GAP = " Daylight saving: a skipped time runs right after the gap, a repeated one runs once."
FOLLOWS = " Daylight saving: a skipped time does not run, a repeated one runs twice."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * * *", "Every minute"),
        ("*/5 * * * *", "Every 5 minutes"),
        ("2/5 * * * *", "Every 5 minutes from minute 2"),
        ("*/7 * * * *", "At minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour"),
        ("5 * * * *", "At minute 5 of every hour"),
        ("10-20 * * * *", "Every minute from 10 to 20"),
        ("0 8 * * *", "At 08:00 every day"),
        ("0 8,20 * * 1-5", "At 08:00 and 20:00 on Monday to Friday"),
        ("0 9-17 * * Mon,Wed", "Every hour from 09:00 to 17:00 on Monday and Wednesday"),
        ("0 9/2 * * *", "Every 2 hours from 09:00 to 23:00 every day"),
        ("*/15 9-17 * * *", "Every 15 minutes from 09:00 to 17:59 every day"),
        ("*/20 4,6,9 * * *", "Every 20 minutes in the hours 04, 06 and 09 every day"),
        ("0 0 29 2 *", "At 00:00 on day 29 of February"),
        ("0 0 1,15 * *", "At 00:00 on days 1 and 15 of the month"),
        ("0 0 13 * 5", "At 00:00 on day 13 of the month and on every Friday"),
        ("0 0 */13 * 5", "At 00:00 on days 1, 14 and 27 of the month if it is Friday"),
        ("0 0 1 * Fri", "At 00:00 on day 1 of the month and on every Friday"),
        ("0 0 L * *", "At 00:00 on the last day of the month"),
        ("0 0 L-3 * *", "At 00:00 3 days before the last day of the month"),
        (
            "0 0 15W,LW * *",
            "At 00:00 on the weekday nearest day 15 of the month and on the last weekday of the month",
        ),
        ("0 0 * 6 5L", "At 00:00 on the last Friday of the month in June"),
        ("0 0 * * Fri#2,Mon", "At 00:00 on Monday and the second Friday of the month"),
        ("0 0 */2 * *", "At 00:00 on every 2nd day from day 1 to day 31 of the month"),
        ("*/10 * * * * *", "Every 10 seconds"),
        ("30 0 8 * * *", "At 08:00:30 every day"),
        ("0,30 0 8 * * *", "Every 30 seconds of 08:00 every day"),
        ("0 0 0 1 1 * 2030-2033", "At 00:00 on day 1 of January in 2030 to 2033"),
        ("*:*:0/0.25", "Every 0.25 seconds"),
        ("Mon *-05~07/1", "At 00:00 on the last 7 days of May if it is Monday"),
        ("quarterly", "At 00:00 on day 1 of January, April, July and October"),
    ],
)
def test_a_wall_clock_schedule_is_said_from_what_it_compiled_to(text: str, said: str) -> None:
    assert explain(parse_schedule(text)) == f"{said} (UTC)."


@pytest.mark.parametrize(
    ("text", "dst", "said"),
    [
        ("30 2 * * *", "once", "At 02:30 every day (Europe/Berlin)." + GAP),
        (
            "30 2 * * *",
            "skip",
            "At 02:30 every day (Europe/Berlin)." + GAP.replace("runs right after the gap", "does not run"),
        ),
        ("30 2 * * *", "every", "At 02:30 every day (Europe/Berlin)." + FOLLOWS),
        ("*/30 2 * * *", "once", "At 02:00 and 02:30 every day (Europe/Berlin)." + FOLLOWS),
        ("0 8 * * *", "once", "At 08:00 every day (Europe/Berlin)."),
        ("*/5 * * * *", "once", "Every 5 minutes (Europe/Berlin)."),
        ("0 2 1 1 *", "once", "At 02:00 on day 1 of January (Europe/Berlin)."),
    ],
)
def test_daylight_saving_is_mentioned_where_it_can_be_met(text: str, dst: str, said: str) -> None:
    assert explain(parse_schedule(text, "Europe/Berlin", dst=dst)) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("every 6h", "Every 6 hours, counting from the job's first start."),
        ("every 1d", "Every day, counting from the job's first start."),
        ("every 1h30m", "Every 90 minutes, counting from the job's first start."),
        ("every 1500ms", "Every 1s500ms, counting from the job's first start."),
        ("every 90s from 2026-01-01T00:00Z", "Every 90 seconds, counting from 2026-01-01 00:00:00 UTC."),
        ("at 2026-12-01T09:00", "Once, at 2026-12-01 09:00:00 UTC."),
        ("@boot", "At each start of the daemon."),
        ("@reboot", "Once per boot of the machine, when the daemon starts."),
    ],
)
def test_the_other_forms(text: str, said: str) -> None:
    assert explain(parse_schedule(text)) == said


def test_lists_and_exceptions_are_joined() -> None:
    schedule = parse_schedule(["0 8 * * *", "every 6h"], except_=["Sat,Sun", "2026-12-24..2026-12-26"])
    assert explain(schedule) == (
        "At 08:00 every day (UTC). And: Every 6 hours, counting from the job's first start. "
        "Except Sat,Sun and 2026-12-24..2026-12-26."
    )

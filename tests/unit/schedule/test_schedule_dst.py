"""Daylight saving by table: gaps and repeats of real zones, each mode of the job key ``dst``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from echosched.errors import ScheduleError
from echosched.schedule import parse_schedule, transitions

BERLIN, LORD_HOWE, APIA, SAO_PAULO = (
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
)


def between(text: str, zone: str, begin: str, end: str, dst: str = "once") -> list[str]:
    """Return the slots in ``[begin, end)`` (UTC) as wall-clock time with offset."""
    schedule = parse_schedule(text, zone, dst=dst)
    moment = datetime.fromisoformat(begin).replace(tzinfo=UTC) - timedelta(microseconds=1)
    limit = datetime.fromisoformat(end).replace(tzinfo=UTC)
    found = []
    while (following := schedule.next_after(moment)) is not None and following < limit:
        assert following > moment
        found.append(following.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z"))
        moment = following
    return found


SPRING = ("2026-03-28 12:00", "2026-03-30 12:00")  # Berlin skips 02:00–03:00 on the 29th
AUTUMN = ("2026-10-24 12:00", "2026-10-26 12:00")  # and repeats 02:00–03:00 on the 25th


@pytest.mark.parametrize(
    ("text", "dst", "spring", "autumn"),
    [
        ("30 2 * * *", "once", ["29 03:00+0200", "30 02:30+0200"], ["25 02:30+0200", "26 02:30+0100"]),
        ("30 2 * * *", "skip", ["30 02:30+0200"], ["25 02:30+0200", "26 02:30+0100"]),
        ("30 2 * * *", "every", ["30 02:30+0200"], ["25 02:30+0200", "25 02:30+0100", "26 02:30+0100"]),
        # Several skipped matches are one slot, also together with a match at the end of the gap.
        ("0,30 2 29,25 * *", "once", ["29 03:00+0200"], ["25 02:00+0200", "25 02:30+0200"]),
        ("0 2,3 29,25 * *", "once", ["29 03:00+0200"], ["25 02:00+0200", "25 03:00+0100"]),
        # A star in the minute or hour field follows real time.
        ("*/30 2 * * *", "once", ["30 02:00+0200", "30 02:30+0200"],
         ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "26 02:00+0100", "26 02:30+0100"]),
        ("30 */12 29,25 * *", "once", ["29 00:30+0100", "29 12:30+0200"], ["25 00:30+0200", "25 12:30+0100"]),
        # The same rule for seconds fields and calendar expressions.
        ("0 30 2 * * *", "once", ["29 03:00+0200", "30 02:30+0200"], ["25 02:30+0200", "26 02:30+0100"]),
        ("15 30 2 * * *", "skip", ["30 02:30+0200"], ["25 02:30+0200", "26 02:30+0100"]),
        ("* 30 2 29 3 *", "once", ["29 03:00+0200"], []),
        ("*-*-* 02:30", "once", ["29 03:00+0200", "30 02:30+0200"], ["25 02:30+0200", "26 02:30+0100"]),
        ("*-*-29,25 02:00/30", "once", ["29 03:00+0200"], ["25 02:00+0200", "25 02:30+0200"]),
    ],
)  # fmt: skip
def test_berlin(text: str, dst: str, spring: list[str], autumn: list[str]) -> None:
    assert between(text, BERLIN, *SPRING, dst) == spring
    assert between(text, BERLIN, *AUTUMN, dst) == autumn


def test_every_five_minutes_goes_through_both_changes_without_a_hole() -> None:
    for season in (SPRING, AUTUMN):
        assert len(between("*/5 * * * *", BERLIN, *season)) == 48 * 12


def test_a_day_of_a_change_has_an_hour_more_or_less() -> None:
    for dst in ("once", "skip", "every"):
        assert [len(between("*-*-29,25 *:15", BERLIN, *season, dst)) for season in (SPRING, AUTUMN)] == [
            23,
            25,
        ]


def test_lord_howe_shifts_by_half_an_hour() -> None:
    spring, autumn = ("2026-10-03 00:00", "2026-10-04 10:00"), ("2026-04-04 00:00", "2026-04-05 10:00")
    assert between("15 2 4 10 *", LORD_HOWE, *spring) == ["04 02:30+1100"]
    assert between("15 2 4 10 *", LORD_HOWE, *spring, "skip") == []
    assert between("45 1 5 4 *", LORD_HOWE, *autumn) == ["05 01:45+1100"]
    assert between("45 1 5 4 *", LORD_HOWE, *autumn, "every") == ["05 01:45+1100", "05 01:45+1030"]
    assert between("0 2 5 4 *", LORD_HOWE, *autumn) == ["05 02:00+1030"]
    assert len(between("* * 5 4 *", LORD_HOWE, "2026-04-04 00:00", "2026-04-06 00:00")) == 24 * 60 + 30


def test_apia_skipped_a_whole_day() -> None:
    week = ("2011-12-29 00:00", "2012-01-01 12:00")
    assert between("0 8 * * *", APIA, *week) == [
        "29 08:00-1000",
        "31 00:00+1400",
        "31 08:00+1400",
        "01 08:00+1400",
    ]
    assert between("0 8 * * *", APIA, *week, "skip") == ["29 08:00-1000", "31 08:00+1400", "01 08:00+1400"]
    assert between("0 8 30 12 *", APIA, *week) == ["31 00:00+1400"]
    assert between("0 0 * * *", APIA, *week) == [
        "29 00:00-1000",
        "31 00:00+1400",
        "01 00:00+1400",
        "02 00:00+1400",
    ]


def test_sao_paulo_skips_midnight() -> None:
    night = ("2018-11-03 12:00", "2018-11-05 12:00")
    assert between("0 0 * * *", SAO_PAULO, *night) == ["04 01:00-0200", "05 00:00-0200"]
    assert between("@daily", SAO_PAULO, *night, "skip") == ["05 00:00-0200"]
    assert between("30 0 4 * *", SAO_PAULO, *night) == ["04 01:00-0200"]
    back = ("2018-02-17 12:00", "2018-02-19 12:00")  # 00:00 on the 18th became 23:00 on the 17th
    assert between("30 23 * * *", SAO_PAULO, *back) == ["17 23:30-0200", "18 23:30-0300"]
    assert between("30 23 * * *", SAO_PAULO, *back, "every") == [
        "17 23:30-0200",
        "17 23:30-0300",
        "18 23:30-0300",
    ]


def test_dublin_whose_winter_is_the_exception_is_like_any_other() -> None:
    assert between("30 1 * * *", "Europe/Dublin", *SPRING) == ["29 02:00+0100", "30 01:30+0100"]
    assert between("30 1 * * *", "Europe/Dublin", *AUTUMN) == ["25 01:30+0100", "26 01:30+0000"]


@pytest.mark.parametrize("dst", ["once", "skip", "every"])
@pytest.mark.parametrize("text", ["*/15 * * * *", "30 2 * * *", "*:0/7", "20 1,2,3 * * *", "*/20 * 2 * * *"])
def test_the_answer_is_strictly_after_from_any_instant_and_fold(text: str, dst: str) -> None:
    for zone, when in ((BERLIN, "2026-10-25"), (LORD_HOWE, "2026-04-05"), ("America/New_York", "2026-11-01")):
        schedule = parse_schedule(text, zone, dst=dst)
        wall = datetime.fromisoformat(f"{when} 00:00").replace(tzinfo=ZoneInfo(zone))
        for minute in range(0, 300, 5):
            for fold in (0, 1):
                for micro in (0, 1, 999_999):
                    moment = (wall + timedelta(minutes=minute, microseconds=micro)).replace(fold=fold)
                    following = schedule.next_after(moment)
                    assert following is not None
                    assert following > moment.astimezone(UTC), (text, moment)


def test_inside_the_second_pass_of_a_repeated_hour_time_goes_on() -> None:
    second_pass = datetime(2026, 10, 25, 2, 10, tzinfo=ZoneInfo(BERLIN), fold=1)
    assert parse_schedule("*/15 * * * *", BERLIN).next_after(second_pass) == datetime(
        2026, 10, 25, 1, 15, tzinfo=UTC
    )
    assert parse_schedule("30 2 * * *", BERLIN).next_after(second_pass) == datetime(
        2026, 10, 26, 1, 30, tzinfo=UTC
    )
    assert parse_schedule("30 2 * * *", BERLIN, dst="every").next_after(second_pass) == datetime(
        2026, 10, 25, 1, 30, tzinfo=UTC
    )


def test_intervals_are_elapsed_time() -> None:
    found = between("every 12h from 2026-03-28T12:00Z", BERLIN, *SPRING)
    assert found == ["28 13:00+0100", "29 01:00+0100", "29 14:00+0200", "30 02:00+0200"]


def test_a_schedule_that_only_ever_matches_skipped_times_ends_instead_of_searching_for_ever() -> None:
    # New York's clocks go forward on the second Sunday of March since 2007.
    schedule = parse_schedule("Sun *-03-08..14 02:30", "America/New_York", dst="skip")
    assert schedule.next_after(datetime(2000, 1, 1, tzinfo=UTC)) == datetime(2000, 3, 12, 7, 30, tzinfo=UTC)
    assert schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)) is None


class TestInstants:
    def test_a_skipped_instant_is_the_end_of_the_gap(self) -> None:
        schedule = parse_schedule("at 2026-03-29T02:30", BERLIN)
        assert schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 3, 29, 1, tzinfo=UTC)

    @pytest.mark.parametrize("dst", ["skip", "every"])
    def test_without_filling_it_never_comes(self, dst: str) -> None:
        with pytest.raises(ScheduleError, match="never comes: Europe/Berlin skips that time"):
            parse_schedule("at 2026-03-29T02:30", BERLIN, dst=dst)

    def test_a_repeated_instant_is_the_first_unless_both_are_wanted(self) -> None:
        start, first = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        for dst in ("once", "skip"):
            schedule = parse_schedule("at 2026-10-25T02:30", BERLIN, dst=dst)
            assert schedule.next_after(start) == first
            assert schedule.next_after(first) is None
        both = parse_schedule("at 2026-10-25T02:30", BERLIN, dst="every")
        assert both.next_after(first) == first + timedelta(hours=1)


class TestShifts:
    YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    def met(self, text: str | list[str], dst: str = "once", **options: list[str]) -> list[str]:
        schedule = parse_schedule(text, BERLIN, dst=dst, **options)  # type: ignore[arg-type]
        return [
            f"{shift.kind} {shift.local:%m-%d %H:%M}: {shift.runs}"
            for shift in transitions(schedule, *self.YEAR)
        ]

    def test_each_meeting_says_when_and_what_happens(self) -> None:
        assert self.met("30 2 * * *") == [
            "gap 03-29 02:30: runs at 03:00, right after the gap",
            "repeat 10-25 02:30: runs once, the first time",
        ]
        assert self.met("30 2 * * *", "skip")[0] == "gap 03-29 02:30: does not run"
        assert self.met("30 2 * * *", "every") == [
            "gap 03-29 02:30: does not run",
            "repeat 10-25 02:30: runs both times",
        ]
        assert self.met("*/30 2 * * *") == [
            "gap 03-29 02:00: does not run",
            "repeat 10-25 02:00: runs both times",
        ]

    def test_what_is_not_touched_meets_none(self) -> None:
        for text in (
            "0 8 * * *",
            "*/5 * * * *",
            "0 * * * *",
            "every 1h",
            "@boot",
            "0 2 1 * *",
            "at 2026-05-05",
        ):
            assert self.met(text) == []

    def test_unions_exceptions_and_instants_are_looked_into(self) -> None:
        assert len(self.met(["30 2 * * *", "15 2 * 10 *", "30 2 * * *"])) == 3
        assert len(self.met("30 2 * * *", except_=["2026-03-29"])) == 1
        assert self.met("at 2026-03-29T02:30") == ["gap 03-29 02:30: runs at 03:00, right after the gap"]
        assert self.met("at 2026-10-25T02:30") == ["repeat 10-25 02:30: runs once, the first time"]
        assert self.met("at 2026-10-25T02:30", "every") == ["repeat 10-25 02:30: runs both times"]

    def test_the_period_includes_its_beginning_and_not_its_end(self) -> None:
        schedule = parse_schedule("30 2 * * *", BERLIN)
        change = datetime(2026, 3, 29, 1, tzinfo=UTC)
        assert [shift.at for shift in transitions(schedule, change, change + timedelta(days=1))] == [change]
        assert transitions(schedule, change - timedelta(days=1), change) == []

"""Intervals, instants, lists, exceptions, chains, and which form a text is taken for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from echosched.errors import ScheduleError
from echosched.model import After, AfterWhen
from echosched.schedule import (
    excluding,
    find_cycle,
    format_duration,
    jitter_seconds,
    parse_after,
    parse_duration,
    parse_schedule,
)
from echosched.schedule.durations import duration_micros
from echosched.schedule.spread import stable_hash

from .slots import upcoming

START = datetime(2026, 1, 1, tzinfo=UTC)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "micros"),
        [
            ("90s", 90_000_000), ("1h30m", 5_400_000_000), ("6h", 21_600_000_000), ("2d", 172_800_000_000),
            ("1w", 604_800_000_000), ("500ms", 500_000), ("250us", 250), ("3 µs", 3), ("0", 0), ("15", 15_000_000),
            ("2 days 6 hours", 194_400_000_000), (" 5 min ", 300_000_000), ("1.5h", 5_400_000_000),
            ("1hour 1hr 1h", 10_800_000_000), ("0.000001s", 1), ("1min 30", None), ("10sec", 10_000_000),
        ],
    )  # fmt: skip
    def test_the_words_of_systemd_that_have_a_fixed_length(self, text: str, micros: int | None) -> None:
        if micros is None:
            with pytest.raises(ScheduleError, match="unit is missing"):
                parse_duration(text)
        else:
            assert parse_duration(text) == timedelta(microseconds=micros)

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "must be a length"), ("  ", "must be a length"), ("fast", "must be numbers with units"),
            ("-5s", "must be numbers with units"), ("5x", "unknown unit 'x'"), ("5 month", "no fixed length"),
            ("1y", "no fixed length"), ("5M", "no fixed length"), ("5S", "unknown unit"), ("٥s", "must be numbers"),
            ("1e3s", "unknown unit"), ("0.5us", "whole microseconds"), ("999999999999999w", "too long"),
            ("5s;", "must be numbers with units"), ("1..5s", "unit is missing"),
        ],
    )  # fmt: skip
    def test_anything_else_is_one_clear_line(self, text: str, part: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            parse_duration(text)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "text", ["0s", "500ms", "90s", "1h30m", "10d", "2w", "1us", "1d1h1m1s1ms1us", "8d"]
    )
    def test_formatting_and_parsing_are_inverse(self, text: str) -> None:
        assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)

    def test_the_shortest_form_is_chosen(self) -> None:
        assert format_duration(timedelta(seconds=90)) == "1m30s"
        assert format_duration(timedelta(days=14)) == "2w"
        assert format_duration(timedelta(days=10)) == "10d"
        assert format_duration(timedelta(0)) == "0s"
        assert format_duration(-timedelta(seconds=5)) == "-5s"


class TestIntervals:
    def test_from_extends_both_ways(self) -> None:
        schedule = parse_schedule("every 90s from 2026-01-01T00:00Z")
        assert upcoming(schedule, START, 2) == ["2026-01-01 00:01:30", "2026-01-01 00:03"]
        assert upcoming(schedule, START - timedelta(seconds=100), 2) == [
            "2025-12-31 23:58:30",
            "2026-01-01 00:00",
        ]

    def test_the_epoch_is_the_anchor_unless_one_is_given(self) -> None:
        assert upcoming(parse_schedule("@every 6h"), START, 2) == ["2026-01-01 06:00", "2026-01-01 12:00"]
        anchored = parse_schedule("every 6h", anchor=START + timedelta(minutes=7))
        assert upcoming(anchored, START, 2) == ["2026-01-01 00:07", "2026-01-01 06:07"]
        assert not anchored.needs_anchor

    def test_an_anchor_is_learned_once(self) -> None:
        schedule = parse_schedule("every 6h")
        assert schedule.needs_anchor
        learned = schedule.with_anchor(START + timedelta(minutes=3))
        assert not learned.needs_anchor
        assert upcoming(learned, START, 1) == ["2026-01-01 00:03"]
        assert learned.with_anchor(START) is learned
        fixed = parse_schedule("every 6h from 2026-01-01T00:00Z")
        assert not fixed.needs_anchor
        assert fixed.with_anchor(START) is fixed
        cron = parse_schedule("0 8 * * *")
        assert not cron.needs_anchor
        assert cron.with_anchor(START) is cron

    def test_sub_second_slots_are_exact(self) -> None:
        schedule = parse_schedule("every 500ms")
        moment = START
        for step in range(1, 2001):
            following = schedule.next_after(moment)
            assert following == START + timedelta(milliseconds=500) * step
            moment = following
        assert parse_schedule("every 7ms from 2026-01-01").next_after(START) == START + timedelta(
            milliseconds=7
        )

    def test_from_may_be_in_a_zone_of_its_own(self) -> None:
        schedule = parse_schedule("every 1d from 2026-01-01T08:00 Asia/Tokyo")
        assert upcoming(schedule, START, 1) == ["2026-01-01 23:00"]

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("every", "nothing follows every"), ("every 5", "unit is missing"), ("every 0s", "at least 1ms"),
            ("every 10us", "at least 1ms"), ("every 1 month", "no fixed length"), ("every day", "must be numbers"),
            ("every 6h from", "must be numbers with units"), ("every 6h from noon", "must be a date and time"),
            ("every 6h since 2026-01-01", "must be numbers"), ("@every", "must be a length"),
        ],
    )  # fmt: skip
    def test_mistakes_are_named(self, text: str, part: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            parse_schedule(text)
        assert part in str(caught.value)


class TestInstants:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("at 2026-12-01T09:00", "2026-12-01 14:00"),
            ("at 2026-12-01 09:00", "2026-12-01 14:00"),
            ("2026-12-01T09:00", "2026-12-01 14:00"),
            ("at 2026-12-01", "2026-12-01 05:00"),
            ("at 2026-12-01T09:00Z", "2026-12-01 09:00"),
            ("at 2026-12-01T09:00+02:00", "2026-12-01 07:00"),
            ("at 2026-12-01T09:00-0130", "2026-12-01 10:30"),
            ("at 2026-12-01T09:00 Europe/Berlin", "2026-12-01 08:00"),
            ("at 2026-12-01T09:00:30.25 utc", "2026-12-01 09:00:30.250000"),
            ("@1796115600", "2026-12-01 09:00"),
            ("@1796115600.5", "2026-12-01 09:00:00.500000"),
        ],
    )
    def test_an_instant_fires_once(self, text: str, expected: str) -> None:
        assert upcoming(parse_schedule(text, "America/New_York"), START, 5) == [expected]

    @pytest.mark.parametrize(
        "text",
        [
            "at", "at noon", "at 2026-13-01", "at 2026-02-30", "at 2026-12-01T24:00", "at 2026-12-01T09:60",
            "at 2026-12-01T09:00 Mars/Olympus", "at 2026-12-01T09:00Z Europe/Berlin", "at 2026-12-01T09:00+25:00",
            "at 2026-12-01T9", "at ٢٠٢٦-12-01", "at 0000-01-01", "@99999999999999", "@5 5", "@12x",
        ],
    )  # fmt: skip
    def test_mistakes_are_one_line(self, text: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            parse_schedule(text)
        assert "\n" not in str(caught.value)


class TestStarts:
    def test_boot_and_reboot_have_no_slots(self) -> None:
        for text, kind in (("@boot", "boot"), ("@reboot", "reboot"), ("@Reboot", "reboot")):
            schedule = parse_schedule(text)
            assert schedule.on_start == {kind}
            assert schedule.next_after(START) is None
        assert parse_schedule("0 8 * * *").on_start == frozenset()


class TestUnions:
    def test_a_list_is_the_union(self) -> None:
        schedule = parse_schedule(["0 8 * * *", "30 7 * * *", "0 8 1 * *", "@boot"])
        assert upcoming(schedule, START, 3) == ["2026-01-01 07:30", "2026-01-01 08:00", "2026-01-02 07:30"]
        assert schedule.on_start == {"boot"}
        assert schedule.text == "0 8 * * *; 30 7 * * *; 0 8 1 * *; @boot"

    def test_a_list_of_one_is_that_one(self) -> None:
        assert parse_schedule(["0 8 * * *"]) is parse_schedule("0 8 * * *")

    def test_an_exhausted_part_leaves_the_others(self) -> None:
        schedule = parse_schedule(["at 2025-01-01", "at 2027-01-01"])
        assert upcoming(schedule, START, 3) == ["2027-01-01 00:00"]

    def test_anchors_reach_the_parts(self) -> None:
        schedule = parse_schedule(["every 6h", "0 8 * * *"])
        assert schedule.needs_anchor
        learned = schedule.with_anchor(START + timedelta(minutes=1))
        assert not learned.needs_anchor
        assert upcoming(learned, START, 3) == ["2026-01-01 00:01", "2026-01-01 06:01", "2026-01-01 08:00"]

    @pytest.mark.parametrize("texts", [[], [5], ["0 8 * * *", None], {"a": 1}, 7, None])
    def test_anything_but_texts_is_refused(self, texts: object) -> None:
        with pytest.raises(ScheduleError, match="must be an expression or a list of expressions"):
            parse_schedule(texts)  # type: ignore[arg-type]

    def test_the_faulty_member_is_named(self) -> None:
        with pytest.raises(ScheduleError, match=r'"0 25 [*] [*] [*]": hour must be 0–23'):
            parse_schedule(["0 8 * * *", "0 25 * * *"])


class TestExceptions:
    def test_dates_ranges_and_yearly_days(self) -> None:
        schedule = parse_schedule("0 8 * * *", except_=["2026-01-02..2026-01-04", "01-06", "2026-01-08"])
        days = [slot[8:10] for slot in upcoming(schedule, START, 6)]
        assert days == ["01", "05", "07", "09", "10", "11"]
        assert [slot[:10] for slot in upcoming(schedule, datetime(2027, 1, 5, 12, tzinfo=UTC), 1)] == [
            "2027-01-07"
        ]

    def test_weekdays_are_left_out_whole(self) -> None:
        schedule = parse_schedule("0 */12 * * *", except_="Sat,Sun")
        assert [slot[8:13] for slot in upcoming(schedule, datetime(2026, 1, 2, tzinfo=UTC), 3)] == [
            "02 12",
            "05 00",
            "05 12",
        ]

    def test_a_cron_expression_covers_its_minutes(self) -> None:
        schedule = parse_schedule("every 7m from 2026-01-01T00:00:13Z", except_=["* 1-22 * * *"])
        found = upcoming(schedule, START, 12)
        assert found[8] == "2026-01-01 00:56:13"
        assert found[9] == "2026-01-01 23:06:13"

    def test_a_seconds_field_covers_its_seconds(self) -> None:
        schedule = parse_schedule("every 500ms", except_=["0-58 * * * * *"])
        assert upcoming(schedule, START, 3) == [
            "2026-01-01 00:00:59", "2026-01-01 00:00:59.500000", "2026-01-01 00:01:59",
        ]  # fmt: skip

    def test_an_interval_covers_instants_only(self) -> None:
        schedule = parse_schedule("every 1s", except_=["every 2s"])
        assert upcoming(schedule, START, 2) == ["2026-01-01 00:00:01", "2026-01-01 00:00:03"]

    def test_days_are_those_of_the_schedules_zone(self) -> None:
        schedule = parse_schedule("every 1h", "Asia/Tokyo", except_=["2026-01-02"])
        found = upcoming(schedule, datetime(2026, 1, 1, 13, tzinfo=UTC), 2)
        assert found == ["2026-01-01 14:00", "2026-01-02 15:00"]

    def test_the_clock_may_shift_inside_what_is_left_out(self) -> None:
        # 01:00–01:59 is left out; Berlin then jumps to 03:00, which is not.
        schedule = parse_schedule("every 10m", "Europe/Berlin", except_=["* 1 * * *"])
        assert upcoming(schedule, datetime(2026, 3, 29, 0, 5, tzinfo=UTC), 1) == ["2026-03-29 01:00"]

    def test_long_exceptions_are_jumped_over_not_walked(self) -> None:
        schedule = parse_schedule("every 1s", except_=["* * * 1-11 *", "* 0-22 * * *"])
        assert upcoming(schedule, START, 1) == ["2026-12-01 23:00"]

    def test_nothing_left_is_an_error(self) -> None:
        for text, exceptions in (
            ("0 8 * * *", "0 8 * * *"), ("* * * * *", "* * * * *"), ("every 1s", "every 1s"),
            ("at 2026-05-01T08:00", "2026-05-01"), ("0 8 * * Sat", "Sat,Sun"),
        ):  # fmt: skip
            with pytest.raises(ScheduleError, match="except leaves nothing"):
                parse_schedule(text, except_=exceptions)

    @pytest.mark.parametrize(
        "exceptions",
        [["2026-01-05..2026-01-01"], ["2026-02-30..2026-03-01"], ["Someday"], ["@boot"], [5], ["61 * * * *"]],
    )
    def test_mistakes_are_named(self, exceptions: list[str]) -> None:
        with pytest.raises(ScheduleError, match=r"^except: "):
            parse_schedule("0 8 * * *", except_=exceptions)

    def test_starts_and_anchors_pass_through(self) -> None:
        schedule = parse_schedule(["@boot", "every 1h"], except_=["Sat,Sun"])
        assert schedule.on_start == {"boot"}
        assert schedule.needs_anchor
        learned = schedule.with_anchor(START + timedelta(minutes=5))
        assert upcoming(learned, datetime(2026, 1, 2, 23, tzinfo=UTC), 2) == [
            "2026-01-02 23:05",
            "2026-01-05 00:05",
        ]
        assert excluding(schedule, []) is schedule


class TestChains:
    def test_after_is_read(self) -> None:
        assert parse_after("after brief") == After("brief")
        assert parse_after("After brief FAILURE") == After("brief", AfterWhen.FAILURE)
        assert parse_after("0 8 * * *") is None
        assert parse_after("") is None
        for text in ("after", "after a b c", "after brief never"):
            with pytest.raises(ScheduleError):
                parse_after(text)

    def test_after_is_no_timetable(self) -> None:
        with pytest.raises(ScheduleError, match="waits for another job"):
            parse_schedule("after brief")

    def test_circles_are_found(self) -> None:
        assert find_cycle({"b": "a", "c": "b"}) is None
        assert find_cycle({}) is None
        assert find_cycle({"a": "a"}) == ["a"]
        assert find_cycle({"x": "c", "c": "b", "b": "a", "a": "c"}) == ["a", "c", "b"]
        long = {f"j{i}": f"j{i + 1}" for i in range(20_000)}
        assert find_cycle(long) is None


class TestSpread:
    def test_jitter_is_stable_bounded_and_spread(self) -> None:
        hour = timedelta(hours=1)
        values = [jitter_seconds(f"job{i}", START, hour) for i in range(500)]
        assert all(0 <= value < 3600 for value in values)
        assert values == [jitter_seconds(f"job{i}", None, hour) for i in range(500)]
        tenths = [sum(1 for value in values if low <= value < low + 360) for low in range(0, 3600, 360)]
        assert min(tenths) > 25
        assert jitter_seconds("job", START, timedelta(0)) == 0.0

    def test_the_hash_never_changes(self) -> None:
        assert stable_hash("brief", "minute") == FROZEN_HASH


FROZEN_HASH = 703038451


class TestForms:
    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "is empty"), ("   ", "is empty"), ("* * * *", "neither a cron expression (5–7 fields)"),
            ("6h", "is a length, not a time (write every 6h)"), ("tomorrow", "weekday must be Mon–Sun, not tomorrow"),
            ("calendar", "nothing follows calendar"), ("cron", "nothing follows cron"), ("x" * 3000, "is too long"),
            ("0 8 * * *\x00", "control characters"), ("@", "unknown nickname"),
            ("30 2 * * * Europe/Berlin", 'timezone = "Europe/Berlin"'),
            ("cron 0 8 * * * UTC", "names no time zone"), ("@boot now", "unknown nickname"),
        ],
    )  # fmt: skip
    def test_what_is_no_schedule_is_told_so(self, text: str, part: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            parse_schedule(text)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    def test_a_prefix_decides(self) -> None:
        assert upcoming(parse_schedule("calendar Mon 08:00"), START, 1) == ["2026-01-05 08:00"]
        assert upcoming(parse_schedule("CRON 0 8 * * 1"), START, 1) == ["2026-01-05 08:00"]
        with pytest.raises(ScheduleError):
            parse_schedule("calendar 0 8 * * 1")
        with pytest.raises(ScheduleError):
            parse_schedule("cron Mon 08:00")

    def test_zone_and_mode_are_checked(self) -> None:
        with pytest.raises(ScheduleError, match="did you mean Europe/Berlin"):
            parse_schedule("0 8 * * *", "Europe/Berln")
        with pytest.raises(ScheduleError, match="dst must be one of once skip every"):
            parse_schedule("0 8 * * *", dst="twice")
        with pytest.raises(ScheduleError, match="dst must be one of"):
            parse_schedule("0 8 * * *", dst=["once"])  # type: ignore[arg-type]
        with pytest.raises(ScheduleError, match="aware"):
            parse_schedule("every 6h", anchor=datetime(2026, 1, 1))  # noqa: DTZ001

    def test_the_text_stays_as_it_was_written(self) -> None:
        for text in (
            " 0 8 * * * ",
            "@daily",
            "cron 0 8 * * *",
            "Mon 08:00",
            "every 6h",
            "at 2027-01-01",
            "@boot",
        ):
            assert parse_schedule(text).text == text

    def test_a_whole_number_of_micros_in_and_out(self) -> None:
        assert duration_micros("1s") == 1_000_000
        schedule = parse_schedule("0 8 * * *")
        assert schedule.next_micros(0) == 8 * 3600 * 1_000_000

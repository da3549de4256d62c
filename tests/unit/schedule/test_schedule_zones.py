"""The transition tables against zoneinfo, which reads the same files with other code."""

from __future__ import annotations

import random
import struct
import zoneinfo
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest

from echosched.clock import EPOCH, to_micros
from echosched.errors import ScheduleError
from echosched.schedule.zones import _ZONES, Rule, find_zone, get_zone, parse_tzif

ALL_ZONES = sorted(name for name in available_timezones() if find_zone(name) is not None)


def offset_seconds(zone: ZoneInfo, seconds: int) -> int:
    moment = (EPOCH + timedelta(seconds=seconds)).astimezone(zone)
    offset = moment.utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


def test_every_zone_of_the_database_is_found() -> None:
    # "localtime" and "Factory" aside, everything that zoneinfo lists can be read.
    missing = available_timezones() - set(ALL_ZONES)
    assert missing <= {"localtime", "Factory", "posixrules"}
    assert len(ALL_ZONES) > 400


def test_offsets_agree_with_zoneinfo_around_every_transition() -> None:
    for name in ALL_ZONES:
        zone, reference = get_zone(name), ZoneInfo(name)
        starts, offsets, _ = zone.table
        for i in range(1, len(offsets)):
            at = starts[i] // 1_000_000
            if at > 2_524_608_000:  # 2050
                break
            assert offset_seconds(reference, at) == offsets[i] // 1_000_000, (name, at)
            assert offset_seconds(reference, at - 1) == offsets[i - 1] // 1_000_000, (name, at)


def test_offsets_agree_with_zoneinfo_at_random_instants_to_the_year_2300() -> None:
    rng = random.Random(5)
    for name in rng.sample(ALL_ZONES, 60):
        zone, reference = get_zone(name), ZoneInfo(name)
        for _ in range(150):
            at = rng.randrange(-3_000_000_000, 10_413_792_000)
            assert zone.offset_at(at * 1_000_000) // 1_000_000 == offset_seconds(reference, at), (name, at)


def test_a_table_grows_to_the_end_of_the_calendar_and_no_further() -> None:
    zone = get_zone("Europe/Berlin")
    last = to_micros(datetime(9998, 7, 1, tzinfo=UTC))
    assert zone.offset_at(last) == 7_200_000_000
    assert zone.offset_at(to_micros(datetime(9999, 12, 31, 23, tzinfo=UTC))) == 3_600_000_000


@pytest.mark.parametrize(
    "name", ["Europe/Berln", "../etc/passwd", "", "/etc/localtime", "Europe/", "x" * 500, "Ü", "a\nb"]
)
def test_an_unknown_zone_is_one_clear_line(name: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        get_zone(name)
    assert "timezone" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_zone_names_the_nearest_one() -> None:
    with pytest.raises(ScheduleError, match="did you mean Europe/Berlin"):
        get_zone("Europe/Berln")


def test_a_rule_of_each_kind_gives_its_days() -> None:
    month = Rule("EST5EDT,M3.2.0,M11.1.0").transitions(2026)
    assert month == [(1772953200, -14400), (1793512800, -18000)]
    julian = Rule("AAA0BBB,J60/0,J61/0").transitions(2024)  # March 1 in leap years too
    assert julian[0][0] == int(datetime(2024, 3, 1, tzinfo=UTC).timestamp())
    zero_based = Rule("AAA0BBB,59/0,61/0").transitions(2024)  # February 29
    assert zero_based[0][0] == int(datetime(2024, 2, 29, tzinfo=UTC).timestamp())
    assert Rule("<+0330>-3:30").changes is False
    with pytest.raises(ValueError, match="not a time zone rule"):
        Rule("nonsense")


def test_a_broken_file_is_no_zone_and_no_crash() -> None:
    for directory in zoneinfo.TZPATH:
        path = Path(directory, "Europe/Berlin")
        if path.exists():
            break
    else:
        pytest.skip("this machine keeps its zones in the tzdata package")
    data = path.read_bytes()
    assert parse_tzif("whole", data).offset_at(0) == 3_600_000_000
    rng = random.Random(9)
    for length in (*range(0, 60), *range(60, len(data), 11)):
        with suppress(ValueError, LookupError, struct.error):
            parse_tzif("cut", data[:length])
    for _ in range(300):
        garbled = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            garbled[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(ValueError, LookupError, struct.error, OverflowError):
            parse_tzif("garbled", bytes(garbled))


def test_without_a_system_database_the_tzdata_package_serves() -> None:
    pytest.importorskip("tzdata")
    whole = get_zone("Asia/Tokyo").table
    saved = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[])
    try:
        _ZONES.pop("Asia/Tokyo")
        assert get_zone("Asia/Tokyo").table == whole
        assert find_zone("Asia/Tokio") is None
    finally:
        zoneinfo.reset_tzpath(to=saved)

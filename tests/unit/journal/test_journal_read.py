"""Reading the journal: from its end, onwards, across rotations; and for people."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echosched import events
from echosched.journal import Follower, Journal, afollow, follow, human, line, parse, tail, tone

AT = datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)


def text(name: object) -> str:
    return f'{{"ts":"2026-11-21T08:00:00.000000Z","event":"job_paused","job":"{name}"}}'


def write(path, *names: object) -> None:
    with path.open("a") as file:
        file.writelines(text(name) + "\n" for name in names)


def names(lines: list[str]) -> list[str]:
    return [json.loads(found)["job"] for found in lines]


def test_tail_of_a_missing_file_is_empty(tmp_path):
    assert tail(tmp_path / "j.log", 10) == []


def test_tail_gives_the_last_lines_oldest_first(tmp_path):
    write(tmp_path / "j.log", *range(5000))
    assert names(tail(tmp_path / "j.log", 3)) == ["4997", "4998", "4999"]
    assert len(tail(tmp_path / "j.log", 10_000)) == 5000
    assert tail(tmp_path / "j.log", 0) == []


def test_tail_reaches_into_rotated_and_compressed_files(tmp_path):
    path = tmp_path / "j.log"
    with gzip.open(tmp_path / "j.log.2.gz", "wt") as file:
        file.write("".join(text(n) + "\n" for n in range(3)))
    write(tmp_path / "j.log.1", 3, 4)
    write(path, 5)
    assert names(tail(path, 4)) == ["2", "3", "4", "5"]
    assert names(tail(path, 99)) == ["0", "1", "2", "3", "4", "5"]
    path.unlink()
    assert names(tail(path, 2)) == ["3", "4"]


def test_tail_reads_only_the_end_of_a_big_file(tmp_path):
    path = tmp_path / "j.log"
    with path.open("wb") as file:
        file.seek(8 * 1024**3)  # a sparse file of 8 GiB: reading it from the start would take minutes
        file.write(b"\n")
    write(path, "a", "b")
    assert names(tail(path, 2)) == ["a", "b"]


def test_tail_leaves_a_half_written_line_for_later(tmp_path):
    path = tmp_path / "j.log"
    write(path, "a")
    follower = Follower(path, last=5)
    assert names(follower.read()) == ["a"]
    with path.open("a") as file:
        file.write(text("b")[:20])
        file.flush()
        assert follower.read() == []
        assert names(tail(path, 5)) == ["a"]
        file.write(text("b")[20:] + "\n")
    assert names(follower.read()) == ["b"]
    follower.close()


def test_tail_with_a_filter_looks_further_back(tmp_path):
    write(tmp_path / "j.log.1", "wanted")
    write(tmp_path / "j.log", *["other"] * 3000)
    assert names(tail(tmp_path / "j.log", 2, keep=lambda found: '"wanted"' in found)) == ["wanted"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), min_size=1), max_size=40),
    st.integers(0, 50),
)
def test_tail_equals_the_end_of_a_plain_reading(tmp_path_factory, lines, n):
    path = tmp_path_factory.mktemp("t") / "j.log"
    path.write_text("".join(found + "\n" for found in lines), newline="")
    assert tail(path, n) == (lines[-n:] if n else [])


def test_a_follower_goes_on_across_rotations_and_loses_nothing(tmp_path):
    path = tmp_path / "j.log"
    write(path, 0)
    follower = Follower(path, last=1)
    got = names(follower.read())
    count = 1
    for turn in range(1, 8):
        for _ in range(3):
            write(path, count)
            count += 1
        late = path.open("a")
        for number in range(turn, 0, -1):
            old = tmp_path / f"j.log.{number}"
            if old.exists():
                old.rename(tmp_path / f"j.log.{number + 1}")
        path.rename(tmp_path / "j.log.1")
        write(path, count)
        late.write(text(count + 1) + "\n")  # a writer that has not reopened yet
        late.close()
        count += 2
        if turn % 3 == 0:  # several rotations may pass between two reads
            got += names(follower.read())
    got += names(follower.read())
    assert sorted(map(int, got)) == list(range(count))
    follower.close()


def test_a_follower_waits_for_a_file_that_does_not_exist_yet(tmp_path):
    path = tmp_path / "j.log"
    follower = Follower(path)
    assert follower.read() == []
    write(path, "a")
    assert names(follower.read()) == ["a"]
    follower.close()


def test_a_follower_notices_truncation_in_place(tmp_path):
    path = tmp_path / "j.log"
    write(path, *range(10))
    follower = Follower(path)
    path.write_text("")
    write(path, "new")
    assert names(follower.read()) == ["new"]
    follower.close()


def test_a_follower_left_files_are_closed_after_a_while(tmp_path):
    path = tmp_path / "j.log"
    write(path, "a")
    follower = Follower(path)
    path.rename(tmp_path / "j.log.1")
    write(path, "b")
    assert names(follower.read()) == ["b"]
    assert len(follower._files) == 2
    for _ in range(50):
        follower.read()
    assert len(follower._files) == 1
    follower.close()


def test_a_position_resumes_exactly_also_after_a_rotation(tmp_path):
    path = tmp_path / "j.log"
    write(path, 0)
    first = Follower(path, last=9)
    first.read()
    write(path, 1, 2, 3)
    positions = [(at, found) for at, found in first.entries()]
    first.close()
    assert names([found for _, found in positions]) == ["1", "2", "3"]
    path.rename(tmp_path / "j.log.1")
    write(path, 4)
    again = Follower(path, position=positions[0][0])
    assert names(again.read()) == ["2", "3", "4"]
    again.close()
    lost = Follower(path, position="999999999:17")
    assert names(lost.read()) == ["4"]
    lost.close()


def test_follow_ends_when_wait_says_so(tmp_path):
    path = tmp_path / "j.log"
    write(path, "a")
    turns = iter([True, True, False])

    def wait() -> bool:
        write(path, "more")
        return next(turns)

    assert names(list(follow(path, wait, last=1))) == ["a", "more", "more"]


async def test_afollow_yields_lines_with_positions(tmp_path):
    path = tmp_path / "j.log"
    write(path, "a")
    lines = afollow(path, last=1, interval_seconds=0.001)
    assert names([(await anext(lines))[1]]) == ["a"]
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    write(path, "b")
    position, found = await asyncio.wait_for(waiting, 30)
    assert names([found]) == ["b"]
    await lines.aclose()
    again = Follower(path, position=position)
    assert again.read() == []
    again.close()


def test_parse_finds_the_whole_line_behind_a_torn_one():
    assert parse(text("a")[:25] + text("b")) == json.loads(text("b"))
    assert parse("") is None
    assert parse("[1]") is None
    assert parse("[" * 100_000) is None
    assert parse(b'{"ts":"\xff') is None


RUN = {"job": "backup", "run": 7, "slot": AT, "attempt": 1, "trigger": "schedule"}
END = {"exit_code": 3, "signal": None, "duration_seconds": 61.2, "lag_seconds": 0.0021}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (events.Ready(ts=AT, pid=9, jobs=3), "ready          serving 3 jobs, pid 9"),
        (
            events.Tick(ts=AT, tick=4, next={"b": "2026-11-21T09:00:00.000000Z", "a": None}),
            "tick           4, next: b 2026-11-21 09:00:00Z",
        ),
        (events.Tick(ts=AT, tick=4, next={}), "tick           4, nothing to come"),
        (events.RunStart(ts=AT, **RUN, pid=5), "backup #7 (schedule slot 2026-11-21 08:00:00.123Z) pid 5"),
        (
            events.RunEnd(ts=AT, **RUN, state="failed", **END, error="refused"),
            "run_end        backup #7 failed in 1 m 01 s (exit code 3, lag 2 ms): refused",
        ),
        (events.RunMissed(ts=AT, **RUN, reason="older than 24h"), "08:00:00.123Z): older than 24h"),
        (events.WorkerExit(ts=AT, pid=5, exit_code=None, signal="SIGKILL"), "worker 5 ended: signal SIGKILL"),
        (events.ClockJump(ts=AT, seconds=-3600.0), "1 h 00 m back"),
        (events.ClockJump(ts=AT, seconds=90000.0, suspended=True), "1 d 01 h forward (the machine slept)"),
        (events.Shutdown(ts=AT, signal="SIGTERM", pid=3), "pid 3 by SIGTERM"),
        (events.Reload(ts=AT, added=("a",), removed=(), changed=("b", "c"), jobs=3), "3 jobs; added a; changed b, c"),
        (events.RetentionStart(ts=AT), "retention_start"),
        (events.SinkFailed(ts=AT, sink="mail", reason="x"), "sink=mail reason=x"),
    ],
)  # fmt: skip
def test_events_read_well(event, told):
    shown = human(parse(line(event)))
    assert shown.startswith("2026-11-21 08:00:00.123Z  ")
    assert shown.endswith(told)


def test_every_event_has_a_readable_line():
    samples = {"datetime": AT, "datetime | None": None, "str": "x", "int": 1, "float": 1.5, "bool": True}
    classes = [c for c in vars(events).values() if isinstance(c, type) and issubclass(c, events.Event)]
    assert len(classes) > 25
    for cls in classes:
        given = {}
        for name, kind in [(field.name, str(field.type)) for field in dataclasses.fields(cls)]:
            if kind in samples:
                given[name] = samples[kind]
            elif "tuple" in kind:
                given[name] = ("a",)
            elif "Mapping" in kind:
                given[name] = {"a": None}
            else:
                given[name] = None
        shown = human(parse(line(cls(**given))))
        assert cls.event in shown
        assert "=" not in shown or cls.event in (
            "sink_failed",
            "retention_start",
            "startup",
            "event",
            "run_event",
        ), shown


def test_unknown_events_and_shapes_are_shown_not_hidden():
    assert human({"ts": "x", "event": "new_thing", "a": [1, {"b": 2}]}) == "x  new_thing      a=[1, {b: 2}]"
    assert human({"event": "run_end", "job": "a"}).endswith("run_end        job=a")
    assert human({}) == "None  ?"


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=9), st.none() | st.text(max_size=9) | st.floats() | st.lists(st.text()), max_size=4
    )
)
def test_human_is_one_printable_line_whatever_comes(document):
    assert human({"event": "run_end", **document}).isprintable()


@pytest.mark.parametrize(
    ("document", "sounds"),
    [
        ({"event": "run_end", "state": "succeeded"}, "good"),
        ({"event": "run_end", "state": "timed_out"}, "bad"),
        ({"event": "run_missed"}, "odd"),
        ({"event": "watchdog"}, "bad"),
        ({"event": "tick"}, "plain"),
    ],
)
def test_tones(document, sounds):
    assert tone(document) == sounds


def test_the_journal_and_the_reader_agree(tmp_path):
    journal = Journal(tmp_path / "j.log")
    for number in range(10):
        journal.emit(events.JobPaused(ts=AT + timedelta(seconds=number), job=f"ü{number}"))
    journal.close()
    assert [parse(found)["job"] for found in tail(tmp_path / "j.log", 3)] == ["ü7", "ü8", "ü9"]

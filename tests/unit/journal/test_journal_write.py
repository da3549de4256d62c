"""Writing the journal: whole lines, batches, rotation, faults, echo."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.errors import EchoschedError
from echosched.events import Event, JobPaused, RunEnd, Startup, Tick
from echosched.journal import Journal, line, parse

AT = datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)


def paused(name: str) -> Event:
    return JobPaused(ts=AT, job=name)


def jobs_in(*paths: Path) -> list[str]:
    return [
        json.loads(text)["job"] for path in paths if path.exists() for text in path.read_text().splitlines()
    ]


class Loop:
    """Collects what call_soon is given and runs it on demand."""

    def __init__(self) -> None:
        self.calls: list = []

    def call_soon(self, function) -> None:
        self.calls.append(function)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_without_a_loop_each_event_is_in_the_file_at_once(tmp_path):
    journal = Journal(tmp_path / "j.log")
    journal.emit(paused("a"))
    assert (tmp_path / "j.log").read_text() == (
        '{"ts":"2026-11-21T08:00:00.123456Z","event":"job_paused","job":"a"}\n'
    )
    journal.close()


def test_with_a_loop_one_turn_is_one_write(tmp_path, monkeypatch):
    loop = Loop()
    journal = Journal(tmp_path / "j.log", call_soon=loop.call_soon)
    sizes: list[int] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
    for number in range(40):
        journal.emit(paused(f"job{number}"))
    assert len(loop.calls) == 1
    assert not sizes
    loop.turn()
    assert len(sizes) == 1
    assert not loop.calls
    assert jobs_in(tmp_path / "j.log") == [f"job{n}" for n in range(40)]
    journal.emit(paused("later"))
    assert len(loop.calls) == 1
    journal.close()
    assert jobs_in(tmp_path / "j.log")[-1] == "later"


def test_a_burst_is_written_in_portions_and_in_order(tmp_path):
    loop = Loop()
    journal = Journal(tmp_path / "j.log", call_soon=loop.call_soon)
    for number in range(1000):
        journal.emit(paused(f"job{number}"))
    loop.turn()
    journal.emit(paused("late"))
    written = len(jobs_in(tmp_path / "j.log"))
    assert 0 < written < 1000
    turns = 0
    while loop.calls:
        loop.turn()
        turns += 1
    assert turns > 1
    assert jobs_in(tmp_path / "j.log") == [*(f"job{n}" for n in range(1000)), "late"]
    journal.emit(paused("last"))
    journal.flush()
    assert jobs_in(tmp_path / "j.log")[-1] == "last"
    journal.close()


def collecting(tmp_path):
    """Return a loop, the calls that were put off, and a journal that collects in crowds."""
    loop, later = Loop(), []
    journal = Journal(
        tmp_path / "j.log",
        call_soon=loop.call_soon,
        call_later=lambda seconds, function: later.append((seconds, function)),
    )
    return loop, later, journal


def test_a_crowd_of_events_is_collected_and_a_lone_one_is_not(tmp_path):
    loop, later, journal = collecting(tmp_path)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for number in range(200):
        journal.emit(JobPaused(ts=start + timedelta(milliseconds=number / 4), job=f"job{number}"))
        if loop.calls:
            loop.turn()
    [(seconds, look)] = later
    assert 0 < seconds <= 0.1
    assert 0 < len(jobs_in(tmp_path / "j.log")) < 100
    look()  # they kept coming
    assert len(jobs_in(tmp_path / "j.log")) < 100
    later.pop()[1]()  # no more did
    while loop.calls:
        loop.turn()
    assert jobs_in(tmp_path / "j.log") == [f"job{n}" for n in range(200)]
    journal.emit(JobPaused(ts=start + timedelta(seconds=1), job="alone"))
    assert len(later) == 1
    loop.turn()
    assert jobs_in(tmp_path / "j.log")[-1] == "alone"
    journal.close()


def test_a_crowd_that_does_not_end_is_written_within_half_a_second(tmp_path):
    loop, later, journal = collecting(tmp_path)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for number in range(40):
        journal.emit(JobPaused(ts=start, job=f"job{number}"))
        loop.turn()
    waited, sent = 0.0, 40
    while len(jobs_in(tmp_path / "j.log")) < 100:
        for _ in range(50):
            journal.emit(JobPaused(ts=start + timedelta(seconds=waited), job=f"job{sent}"))
            sent += 1
        seconds, look = later.pop()
        waited += seconds
        look()
        while loop.calls:
            loop.turn()
    assert 0.2 <= waited <= 0.5 + 1e-9
    while loop.calls:
        loop.turn()
    assert jobs_in(tmp_path / "j.log") == [f"job{n}" for n in range(sent)]
    journal.close()


def test_a_closed_loop_makes_the_journal_write_at_once(tmp_path):
    def closed(_function) -> None:
        raise RuntimeError("Event loop is closed")

    journal = Journal(tmp_path / "j.log", call_soon=closed)
    journal.emit(paused("a"))
    journal.emit(paused("b"))
    assert jobs_in(tmp_path / "j.log") == ["a", "b"]
    journal.close()


def test_the_file_is_0640_and_the_descriptor_is_not_inherited(tmp_path):
    old = os.umask(0o022)
    try:
        journal = Journal(tmp_path / "j.log")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "j.log").stat().st_mode) == 0o640
    assert not os.get_inheritable(journal._fd)
    journal.close()


def test_a_symbolic_link_is_refused_with_a_cure(tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "j.log").symlink_to(tmp_path / "real")
    with pytest.raises(EchoschedError, match="symbolic link"):
        Journal(tmp_path / "j.log")


def test_a_missing_directory_is_one_clear_line(tmp_path):
    with pytest.raises(EchoschedError, match=r"no/j\.log: cannot open the journal: No such file"):
        Journal(tmp_path / "no" / "j.log")


def test_a_lenient_journal_keeps_lines_until_its_directory_appears(tmp_path):
    journal = Journal(tmp_path / "later" / "j.log", lenient=True)
    assert journal.failing == "No such file or directory"
    journal.emit(paused("a"))
    journal.emit(paused("b"))
    (tmp_path / "later").mkdir()
    journal.emit(paused("c"))
    assert journal.failing is None
    assert jobs_in(tmp_path / "later" / "j.log") == ["a", "b", "c"]
    journal.close()


def test_values_that_json_does_not_know_are_written_and_never_raise(tmp_path):
    odd = Startup(
        ts=AT, pid=1, mode="foreground", version="1", config={"path": Path("/x"), "when": AT, 3: {"set"}}
    )
    document = parse(line(odd))
    assert document is not None
    assert document["config"]["path"] == "/x"
    assert document["config"]["when"] == "2026-11-21T08:00:00.123456Z"
    assert document["config"]["3"] == ["set"]
    not_a_number = RunEnd(
        ts=AT, job="a", run=1, slot=None, attempt=1, trigger="manual", state="failed", exit_code=1, signal=None,
        duration_seconds=float("nan"), lag_seconds=None,
    )  # fmt: skip
    assert parse(line(not_a_number))["event"] == "sink_failed"


def test_lines_are_ascii_so_that_no_output_reaches_the_terminal(tmp_path):
    hostile = "\x1b[2J\u009b31m\u202e\ud800\nnew"
    raw = line(paused(hostile))
    assert raw.isascii()
    assert raw.count(b"\n") == 1
    assert b"\x1b" not in raw
    assert parse(raw)["job"] == hostile


def test_a_renamed_file_is_left_without_any_signal(tmp_path):
    path = tmp_path / "j.log"
    journal = Journal(path)
    journal.emit(paused("a"))
    path.rename(tmp_path / "j.log.1")
    journal.emit(paused("b"))
    path.unlink()
    journal.emit(paused("c"))
    assert jobs_in(tmp_path / "j.log.1") == ["a"]
    assert jobs_in(path) == ["c"]
    journal.close()


def test_reopen_takes_the_new_file(tmp_path):
    path = tmp_path / "j.log"
    journal = Journal(path)
    path.rename(tmp_path / "j.log.1")
    journal.reopen()
    assert path.exists()
    journal.close()


def test_writers_under_concurrent_rotation_lose_no_line(tmp_path):
    path = tmp_path / "j.log"
    writers, each, rounds = 3, 1500, 40
    done = threading.Event()

    def write(number: int) -> None:
        journal = Journal(path)
        for count in range(each):
            journal.emit(paused(f"{number}.{count}"))
        journal.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    turned = 0
    while not done.is_set() and any(t.is_alive() for t in threads):
        if turned < rounds and path.exists():
            turned += 1
            path.rename(tmp_path / f"old.{turned}")
    for thread in threads:
        thread.join()
    found = jobs_in(path, *tmp_path.glob("old.*"))
    assert turned >= 1
    assert sorted(found) == sorted(f"{n}.{c}" for n in range(writers) for c in range(each))


def test_a_full_disk_loses_nothing_that_fits_the_buffer(tmp_path, monkeypatch):
    path = tmp_path / "j.log"
    journal = Journal(path)
    journal.emit(paused("before"))
    real = os.write
    monkeypatch.setattr(
        os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    for number in range(100):
        journal.emit(paused(f"full{number}"))
    assert journal.failing == "No space left on device"
    monkeypatch.setattr(os, "write", real)
    journal.emit(paused("after"))
    assert journal.failing is None
    assert jobs_in(path) == ["before", *(f"full{n}" for n in range(100)), "after"]
    journal.close()


def test_a_short_write_leaves_no_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "j.log"
    journal = Journal(path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:30]))
    journal.emit(paused("torn"))
    assert path.read_bytes() == b""
    assert journal.failing
    monkeypatch.setattr(os, "write", real)
    journal.emit(paused("next"))
    assert jobs_in(path) == ["torn", "next"]
    journal.close()


FULL = """
import resource, sys
from datetime import UTC, datetime, timedelta
from echosched.events import JobPaused
from echosched.journal import Journal

journal = Journal(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
at = datetime(2026, 11, 21, tzinfo=UTC)
failed = 0
for number in range(400):
    journal.emit(JobPaused(ts=at, job=f"job{number}"))
    failed += journal.failing is not None
    if number == 300:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.close()
print(failed)
"""


def test_a_real_limit_on_the_files_size_tears_and_loses_no_line(tmp_path):
    """The kernel itself writes short at the limit, as it does on a full disk."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "j.log")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(shown.stdout) > 100
    assert jobs_in(tmp_path / "j.log") == [f"job{n}" for n in range(400)]


def test_a_torn_line_behind_which_another_wrote_is_closed_and_written_again(tmp_path, monkeypatch):
    path = tmp_path / "j.log"
    journal, other = Journal(path), Journal(path)
    real = os.write

    def torn(fd: int, data: bytes) -> int:
        count = real(fd, data[:30])
        monkeypatch.setattr(os, "write", real)
        other.emit(paused("other"))
        return count

    monkeypatch.setattr(os, "write", torn)
    journal.emit(paused("mine"))
    journal.emit(paused("next"))
    documents = [parse(text) for text in path.read_bytes().splitlines()]
    assert [d["job"] for d in documents if d] == ["other", "mine", "next"]
    journal.close()
    other.close()


def test_what_does_not_fit_is_counted_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr("echosched.journal.write._PENDING_BYTES", 2000)
    path = tmp_path / "in" / "j.log"
    journal = Journal(path, lenient=True)
    for number in range(100):
        journal.emit(paused(f"job{number:03}"))
    assert journal.lost > 50
    path.parent.mkdir()
    journal.emit(paused("end"))
    documents = [json.loads(text) for text in path.read_text().splitlines()]
    assert documents[0]["event"] == "sink_failed"
    assert documents[0]["reason"].startswith(f"{journal.lost} lines lost")
    assert [d["job"] for d in documents[1:]] == [
        *(f"job{n:03}" for n in range(journal.lost, 100)), "end"
    ]  # fmt: skip
    journal.close()


def test_echo_gets_the_same_lines(tmp_path):
    reading, writing = os.pipe()
    journal = Journal(tmp_path / "j.log", echo=writing)
    journal.emit(paused("a"))
    journal.emit(paused("b"))
    assert os.read(reading, 65536) == (tmp_path / "j.log").read_bytes()
    journal.close()
    os.close(reading)
    os.close(writing)


def test_a_full_pipe_neither_blocks_nor_tears_lines(tmp_path):
    reading, writing = os.pipe()
    journal = Journal(tmp_path / "j.log", echo=writing)
    for number in range(3000):  # about 200 KB into a pipe of 64 KB that nobody reads
        journal.emit(paused(f"job{number}"))
    assert len(jobs_in(tmp_path / "j.log")) == 3000
    got = b""
    os.set_blocking(reading, False)
    while True:
        try:
            got += os.read(reading, 1 << 20)
        except BlockingIOError:
            journal.flush()
            try:
                got += os.read(reading, 1 << 20)
            except BlockingIOError:
                break
    assert [json.loads(text)["job"] for text in got.splitlines()] == [f"job{n}" for n in range(3000)]
    journal.close()
    os.close(reading)
    os.close(writing)


def test_a_broken_echo_ends_the_echo_only(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    journal = Journal(tmp_path / "j.log", echo=writing)
    journal.emit(paused("a"))
    journal.emit(paused("b"))
    assert jobs_in(tmp_path / "j.log") == ["a", "b"]
    journal.close()
    os.close(writing)


def test_echo_may_be_a_callable(tmp_path):
    seen: list[bytes] = []
    journal = Journal(tmp_path / "j.log", echo=seen.append)
    journal.emit(Tick(ts=AT, tick=1, next={"a": None}))
    assert seen == [b'{"ts":"2026-11-21T08:00:00.123456Z","event":"tick","tick":1,"next":{"a":null}}\n']
    journal.close()

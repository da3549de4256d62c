from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from echosched.daemon import beat as beats
from echosched.daemon.beat import SIZE, Beat, interval_for, read_pulse


def test_a_beat_is_seen_by_a_reader(tmp_path: Path) -> None:
    path = str(tmp_path / "x.beat")
    beat = Beat(path)
    assert read_pulse(path) is None  # made, but nobody has begun
    beat.reset(4711, 2.5)
    pulse = read_pulse(path)
    assert pulse is not None
    assert (pulse.worker_pid, pulse.beats, pulse.interval_seconds) == (4711, 0, 2.5)
    beat.beat()
    beat.beat()
    pulse = read_pulse(path)
    assert pulse is not None
    assert pulse.beats == 2
    assert pulse.age_seconds < 60
    assert abs(pulse.wall_micros / 1e6 - time.time()) < 60
    assert pulse.degraded_since_micros is None
    beat.set_degraded(123)
    assert beat.look().degraded_since_micros == 123
    beat.set_degraded(None)
    assert beat.look().degraded_since_micros is None
    beat.close()
    assert read_pulse(path) is not None  # it outlives its writer
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_silence_of_more_than_two_beats_is_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Beat(str(tmp_path / "x.beat"))
    beat.reset(1, 5.0)
    pulse = beat.look()
    for age, stalled in ((11.9, False), (12.1, True)):
        now = pulse.monotonic_ns + int(age * 1e9)
        monkeypatch.setattr(beats, "time", SimpleNamespace(monotonic_ns=lambda now=now: now))
        assert pulse.stalled is stalled
    beat.close()


def test_a_removed_file_is_made_anew_and_both_ends_meet_again(tmp_path: Path) -> None:
    path = tmp_path / "x.beat"
    supervisor, worker = Beat(str(path)), Beat(str(path))
    supervisor.reset(4711, 2.5)
    worker.beat()
    path.unlink()
    worker.beat()
    pulse = read_pulse(str(path))
    assert pulse is not None
    assert (pulse.worker_pid, pulse.beats, pulse.interval_seconds) == (4711, 2, 2.5)
    supervisor.keep()
    assert supervisor.look().beats == 2
    worker.beat()
    assert supervisor.look().beats == 3
    path.unlink()
    path.mkdir()  # it cannot be made anew: the worker lives on, unseen
    worker.beat()
    assert worker.look().beats == 4
    supervisor.close()
    worker.close()


@pytest.mark.parametrize(("watchdog", "interval"), [(30, 5.0), (300, 5.0), (6, 1.0), (1.2, 0.2), (0, 5.0)])
def test_a_short_watchdog_asks_for_quicker_beats(watchdog: float, interval: float) -> None:
    assert interval_for(watchdog) == pytest.approx(interval)


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * SIZE, bytes(SIZE)])
def test_a_file_that_is_none_is_not_read_as_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.beat").write_bytes(content)
    assert read_pulse(str(tmp_path / "x.beat")) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "x.beat").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        Beat(str(tmp_path / "x.beat"))
    assert read_pulse(str(tmp_path / "x.beat")) is None


def test_bad_times_of_workers_in_a_row_are_handed_on_from_their_beginning(tmp_path: Path) -> None:
    path = str(tmp_path / "x.beat")
    beat = Beat(path)
    beat.reset(1, 5.0)
    assert not beat.has_bad_times
    beat.set_degraded(2_000)
    beat.reset(2, 5.0)
    assert beat.inherited_degraded_micros == 2_000
    assert beat.has_bad_times
    beat.set_degraded(1_000)  # it caught up older slots, and could not write that either
    beat.reset(3, 5.0)
    beat.set_degraded(3_000)
    beat.reset(4, 5.0)
    assert Beat(path).inherited_degraded_micros == 1_000
    beat.forget_inherited()
    assert not beat.has_bad_times
    beat.close()


def test_what_ails_is_said_until_it_is_well_or_another_worker_comes(tmp_path: Path) -> None:
    path = str(tmp_path / "x.beat")
    beat = Beat(path)
    beat.reset(4711, 2.5)
    for ailing in (True, False, True):
        beat.set_ailing(ailing)
        pulse = read_pulse(path)
        assert pulse is not None
        assert (pulse.is_ailing, pulse.degraded_since_micros) == (ailing, None)
    assert not beat.has_bad_times
    beat.reset(4712, 2.5)
    assert not beat.look().is_ailing
    beat.close()

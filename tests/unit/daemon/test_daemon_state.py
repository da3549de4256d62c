from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from echosched.daemon import instant, lock, proc, statefile
from echosched.daemon.beat import Beat
from echosched.daemon.inspect import inspect
from echosched.daemon.record import Record
from echosched.daemon.settings import Paths, Settings

SECOND = 1_000_000


def document(**changes: Any) -> dict[str, Any]:
    return {
        "pid": 4711,
        "start_ticks": 1,
        "boot_id": proc.boot_id(),
        "pid_namespace": proc.pid_namespace(),
        "mode": "background",
        "started_micros": 1000 * SECOND,
        "ended": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "beat", "how", "said"),
    [
        ({"ended": {"how": "clean", "at": "x", "exit_code": 0, "detail": None}}, None, "clean", None),
        ({"boot_id": "other"}, 1005.0, "vanished with the machine", "restarted"),
        ({"pid_namespace": "pid:[1]"}, 1000.4, "vanished 0.4 s after detaching", "--foreground"),
        (
            {"pid_namespace": "pid:[1]", "mode": "foreground"},
            1060.0,
            "vanished 60.0 s after starting",
            "container",
        ),
        (
            {},
            1000.4,
            "signal 9",
            "0.4 s after detaching; if this host ends detached processes, start it with --foreground",
        ),
        ({}, 5000.0, "signal 9", "killed without a trace"),
        ({"mode": "foreground"}, 1000.4, "signal 9", "killed without a trace (SIGKILL"),
        ({"last_beat_micros": 1002 * SECOND}, None, "signal 9", "2.0 s after detaching"),
        ({}, None, "signal 9", "0.0 s after detaching"),
    ],
)
def test_the_verdict_on_a_daemon_that_is_gone(
    changes: dict[str, Any], beat: float | None, how: str, said: str | None
) -> None:
    verdict = statefile.verdict(document(**changes), None if beat is None else int(beat * SECOND))
    assert verdict["how"] == how
    if said is not None:
        assert said in verdict["detail"]


def test_a_state_file_is_replaced_in_one_step_and_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "x.json")
    statefile.write(path, document(pid=1))
    statefile.write(path, document(pid=2))
    read = statefile.read(path)
    assert read is not None
    assert read["pid"] == 2
    assert os.listdir(tmp_path) == ["x.json"]
    assert os.stat(path).st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_damaged_state_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert statefile.read(str(tmp_path / "x.json")) is None


def test_a_state_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = str(tmp_path / "x.json")
    statefile.write(path, document(pid=1))
    with pytest.raises(TypeError):
        statefile.write(path, {"pid": object()})
    assert os.listdir(tmp_path) == ["x.json"]
    read = statefile.read(path)
    assert read is not None
    assert read["pid"] == 1


def test_a_document_describes_only_that_very_process() -> None:
    me = os.getpid()
    mine = document(pid=me, start_ticks=proc.start_ticks(me))
    assert statefile.describes(mine, me)
    assert not statefile.describes(mine, me + 1)
    assert not statefile.describes({**mine, "start_ticks": 1}, me)
    assert not statefile.describes({**mine, "boot_id": "other"}, me)
    assert not statefile.describes({**mine, "pid_namespace": "pid:[1]"}, me)
    assert not statefile.describes(None, me)


def test_instants_look_like_those_of_the_journal() -> None:
    from echosched.clock import from_micros, rfc3339

    for micros in (0, 1, 999_999, 1_700_000_000_000_001, 4_102_444_800_000_000):
        assert instant.text_of(micros) == rfc3339(from_micros(micros))


class Daemon:
    """The files of a daemon that this very test process plays."""

    def __init__(self, path: Path) -> None:
        self.paths = Paths(pidfile=f"{path}/e.pid", state=f"{path}/e.json", log=f"{path}/e.log")
        self.settings = Settings(paths=self.paths, worker_argv=["true"], version="9")

    def run(self) -> tuple[int, Record, Beat]:
        descriptor = lock.take(self.paths.pidfile)
        assert descriptor is not None
        lock.write_pid(descriptor, os.getpid())
        record, _ = Record.begin(self.settings)
        record.save(os.getpid(), None)
        beat = Beat(self.paths.beat)
        beat.reset(os.getpid(), 5.0)
        return descriptor, record, beat


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def test_inspect_of_nothing_at_all(daemon: Daemon) -> None:
    facts = inspect(daemon.paths)
    assert (facts["running"], facts["health"], facts["pid"], facts["lsb"]) == (False, "stopped", None, 3)
    assert facts["last_exit"] is None


def test_inspect_follows_a_daemon_through_its_life(daemon: Daemon) -> None:
    descriptor, record, beat = daemon.run()
    facts = inspect(daemon.paths)
    assert (facts["running"], facts["health"], facts["ready"], facts["identified"]) == (
        True,
        "degraded",
        False,
        True,
    )
    record.ready()
    record.save(os.getpid(), beat.look())
    assert inspect(daemon.paths)["health"] == "degraded"  # no beat yet
    beat.beat()
    facts = inspect(daemon.paths)
    assert (facts["health"], facts["lsb"], facts["worker_pid"], facts["version"]) == (
        "ok",
        0,
        os.getpid(),
        "9",
    )
    assert facts["cpu_seconds"] > 0
    assert facts["rss_bytes"] > 1_000_000
    beat.set_degraded(1_700_000_000_000_000)
    facts = inspect(daemon.paths)
    assert (facts["health"], facts["degraded_since"]) == ("degraded", "2023-11-14T22:13:20.000000Z")
    beat.set_degraded(None)
    beat.reset(0, 5.0)
    facts = inspect(daemon.paths)
    assert (facts["health"], facts["worker_pid"]) == ("degraded", None)  # between two workers
    beat.reset(os.getpid(), 0.000_001)
    assert inspect(daemon.paths)["health"] == "stalled"
    os.close(descriptor)  # as if killed
    facts = inspect(daemon.paths)
    assert (facts["running"], facts["lsb"], facts["last_exit"]["how"]) == (False, 1, "signal 9")
    record.ended("clean", 0, None, [])
    record.save(None, None)
    os.unlink(daemon.paths.pidfile)
    facts = inspect(daemon.paths)
    assert (facts["lsb"], facts["last_exit"]["how"]) == (3, "clean")
    beat.close()


def test_inspect_never_calls_a_stranger_the_daemon(daemon: Daemon) -> None:
    descriptor, _, beat = daemon.run()
    lock.write_pid(descriptor, os.getppid())
    facts = inspect(daemon.paths)
    assert (facts["running"], facts["identified"], facts["cpu_seconds"]) == (True, False, None)
    os.close(descriptor)
    beat.close()


def test_an_unreadable_pidfile_is_unknown(daemon: Daemon) -> None:
    os.symlink("/nowhere", daemon.paths.pidfile)
    assert inspect(daemon.paths)["lsb"] == 4


def test_the_next_daemon_remembers_how_the_last_one_ended_and_its_children(daemon: Daemon) -> None:
    descriptor, record, beat = daemon.run()
    record.ended("gave up", 1, "why", [["7.1", 99, 5, 42]])
    record.save(None, None)
    os.close(descriptor)
    again, left = Record.begin(daemon.settings)
    assert again.document["previous"]["how"] == "gave up"
    assert [(child.tag, child.pid, child.start_ticks, child.status) for child in left] == [("7.1", 99, 5, 42)]
    beat.close()

"""Readiness, sd_notify, logfiles, settings, host: the small modules at the edges."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from echosched import events
from echosched.daemon import handover, host, logfiles, readiness, sdnotify
from echosched.daemon.backoff import Backoff
from echosched.daemon.settings import Paths, Settings

PACKAGE = Path(handover.MAIN).parent


# ── readiness ─────────────────────────────────────────────────────────────────────────────────


def test_ready_and_failure_come_through_the_pipe() -> None:
    reading, writing = readiness.pipe()
    readiness.tell_ready(writing, 4711)
    assert readiness.wait(reading) == {"ready": True, "pid": 4711}
    os.close(reading)
    reading, writing = readiness.pipe()
    message = "long\n" * 50_000  # more than a pipe holds
    thread = threading.Thread(target=readiness.tell_failure, args=(writing, 6, message))
    thread.start()
    assert readiness.wait(reading) == {"exit_code": 6, "message": message}
    thread.join()
    os.close(reading)


def test_end_of_file_without_a_word_is_no_answer() -> None:
    reading, writing = readiness.pipe()
    os.close(writing)
    assert readiness.wait(reading) is None
    os.close(reading)


def test_waiting_ends_at_the_line_while_the_other_end_is_still_open() -> None:
    reading, writing = readiness.pipe()
    keeper = os.dup(writing)
    readiness.tell_ready(writing, 1)
    assert readiness.wait(reading) == {"ready": True, "pid": 1}
    os.close(keeper)
    os.close(reading)


def test_ready_to_a_launcher_that_died_is_no_error() -> None:
    reading, writing = readiness.pipe()
    os.close(reading)
    readiness.tell_ready(writing, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)


def test_the_tail_is_what_was_said_since(tmp_path: Path) -> None:
    file = tmp_path / "x.out"
    file.write_text("old\n")
    start = readiness.size_of(str(file))
    with file.open("a") as out:
        out.write("".join(f"line {n}\n" for n in range(30)))
    assert readiness.tail(str(file), start, lines=2) == "line 28\nline 29"
    file.write_text("new\n")  # rotated
    assert readiness.tail(str(file), start) == ""
    assert readiness.tail(str(file), 100) == "new"
    assert readiness.tail(str(tmp_path / "none")) == ""
    assert readiness.tail(None) == ""


# ── sd_notify ─────────────────────────────────────────────────────────────────────────────────


def test_notifications_are_sent_as_systemd_wants_them(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = sdnotify.Notifier(
            {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        )
        assert notifier.watchdog_seconds == 30
        assert notifier.ready("two\nlines")
        assert manager.recv(999) == b"READY=1\nMAINPID=%d\nSTATUS=two lines" % os.getpid()
        assert notifier.reloading()
        text = manager.recv(999).decode()
        match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", text)
        assert match
        assert abs(int(match[1]) / 1e6 - time.monotonic()) < 60
        assert notifier.stopping()
        assert manager.recv(999) == b"STOPPING=1\nSTATUS=stopping"
        assert notifier.watchdog()
        assert manager.recv(999) == b"WATCHDOG=1"
        assert notifier.status("fine")
        assert manager.recv(999) == b"STATUS=fine"


def test_a_full_notify_socket_does_not_block(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = sdnotify.Notifier({"NOTIFY_SOCKET": address})
        answers = [notifier.status("x" * 1000) for _ in range(5000)]
        assert answers[0]
        assert not answers[-1]


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nonexistent"}, {"NOTIFY_SOCKET": "relative" * 50}],
)
def test_without_a_reachable_manager_nothing_happens(environment: dict[str, str]) -> None:
    notifier = sdnotify.Notifier(environment)
    assert not notifier.ready()
    assert notifier.watchdog_seconds == 0


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert sdnotify.Notifier(environment).watchdog_seconds == 0
    assert sdnotify.Notifier({**environment, "WATCHDOG_PID": ""}).watchdog_seconds == 0.001


# ── the journal and rotation ──────────────────────────────────────────────────────────────────


def emitted_events() -> dict[str, set[str]]:
    """Return the events and fields that the room's source writes by hand."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.glob("*.py"):
        for match in re.finditer(r"journal\.emit\(\s*\"(\w+)\",(.*?)\n?\s*\)\n", file.read_text(), re.DOTALL):
            found.setdefault(match[1], set()).update(re.findall(r"(\w+)=", match[2].replace("==", "")))
    return found


def test_the_supervisors_events_have_the_fields_that_events_declares() -> None:
    written = emitted_events()
    assert set(written) == {
        "supervisor_start",
        "worker_exit",
        "worker_restart",
        "watchdog",
        "cleanup",
        "shutdown",
    }
    declared = {
        cls.event: {field.name for field in dataclasses.fields(cls)} - {"ts"}
        for cls in events.Event.__subclasses__()
        if cls.event in written
    }
    assert written == declared


def test_a_supervisors_line_is_a_whole_json_object_like_the_workers(tmp_path: Path) -> None:
    journal = logfiles.SupervisorJournal(str(tmp_path / "x.log"), echo=False)
    journal.emit("supervisor_start", pid=4711)
    line = (tmp_path / "x.log").read_text()
    document: dict[str, Any] = json.loads(line)
    assert line.endswith("\n")
    assert list(document) == ["ts", "event", "pid"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", document["ts"])


def test_an_unwritable_journal_is_a_complaint_and_no_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logfiles.SupervisorJournal(str(tmp_path / "no" / "x.log"), echo=False).emit("supervisor_start", pid=1)
    assert "No such file or directory; lost line" in capfd.readouterr().err


def test_rotation_keeps_that_many_files_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    for number in range(5):
        path.write_text(f"{number}")
        logfiles.rotate(str(path), 3)
    assert path.read_text() == ""
    assert [(tmp_path / f"x.log.{n}").read_text() for n in (1, 2, 3)] == ["4", "3", "2"]
    assert not (tmp_path / "x.log.4").exists()
    assert path.stat().st_mode & 0o777 == 0o640


def test_only_files_that_reached_their_size_are_rotated(tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    small.write_text("x" * 99)
    big.write_text("x" * 100)
    complaints: list[str] = []
    paths = (str(small), str(big), str(tmp_path / "none"), None)
    assert not logfiles.rotate_oversized(paths, 0, 3, complaints.append)
    assert logfiles.rotate_oversized(paths, 100, 3, complaints.append)
    assert sorted(os.listdir(tmp_path)) == ["big", "big.1", "small"]
    assert complaints == []


def test_a_rotation_that_fails_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("x" * 100)
    (tmp_path / "x.log.1").mkdir()
    (tmp_path / "x.log.1" / "file").write_text("")
    complaints: list[str] = []
    assert not logfiles.rotate_oversized((str(path),), 10, 1, complaints.append)
    assert complaints
    assert path.read_text() == "x" * 100


# ── settings ──────────────────────────────────────────────────────────────────────────────────


def test_settings_survive_the_way_over_exec() -> None:
    paths = Paths(pidfile="/h/e.pid", state="/h/e.json", db="/h/e.db")
    assert (paths.beat, paths.db_lock) == ("/h/e.beat", "/h/e.db.lock")
    settings = Settings(
        paths=paths, worker_argv=["a", "b"], worker_env={"A": "1"}, grace=3, user="x", child_mark="M={0}."
    )
    document = json.loads(json.dumps(settings.as_dict()))
    assert Settings.from_dict(document).as_dict() == settings.as_dict()


def test_settings_of_another_version_are_read_as_far_as_known() -> None:
    settings = Settings(paths=Paths(pidfile="/e.pid", state="/s"), worker_argv=["a"])
    document = {**settings.as_dict(), "from_the_future": 1}
    document["paths"] = {**document["paths"], "also_new": "x"}
    del document["grace"]
    assert Settings.from_dict(document).grace == 10.0


def test_a_reload_changes_only_what_may_change() -> None:
    settings = Settings(paths=Paths(pidfile="/e.pid", state="/s"), worker_argv=["a"])
    settings.update({"grace": 1.5, "worker_argv": ["evil"], "unknown": 1})
    assert (settings.grace, settings.worker_argv) == (1.5, ["a"])


def test_a_handover_document_comes_back_as_it_was() -> None:
    document = {"text": "ü" * 100_000, "number": 1.5, "nothing": None}
    assert handover.read(handover.write(document)) == document


# ── host ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("environment", "pid", "said"),
    [
        ({}, 4711, None),
        ({}, 1, "process 1"),
        ({"REPL_ID": "x"}, 4711, "Replit"),
        ({"REPLIT_DB_URL": ""}, 4711, "Replit"),
        ({"NOTIFY_SOCKET": "/run/x"}, 4711, "service manager"),
        ({"NOTIFY_SOCKET": ""}, 4711, None),
        ({"SUPERVISOR_ENABLED": "1"}, 4711, "supervisord"),
        ({"container": "podman", "KUBERNETES_SERVICE_HOST": "x"}, 4711, None),
    ],
)
def test_where_detached_processes_do_not_live_the_reason_is_known(
    environment: dict[str, str], pid: int, said: str | None
) -> None:
    reason = host.foreground_reason(environment, pid)
    if said is None:
        assert reason is None
    else:
        assert reason is not None
        assert said in reason


def test_within_the_unit_itself_nothing_is_handed_to_systemd() -> None:
    assert host.systemd_unit(environment={"NOTIFY_SOCKET": "/run/x"}) is None


# ── back-off ──────────────────────────────────────────────────────────────────────────────────


def back_off_settings(**changes: Any) -> Settings:
    return Settings(paths=Paths(pidfile="/e.pid", state="/s"), worker_argv=["a"], **changes)


def test_pauses_double_from_one_second_to_a_minute_then_it_is_given_up() -> None:
    backoff = Backoff()
    settings = back_off_settings()
    pauses = [backoff.lost(float(now), settings) for now in range(11)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, None]


def test_losses_outside_of_the_window_are_forgotten() -> None:
    backoff = Backoff([0.0, 1.0, 2.0])
    settings = back_off_settings(max_restarts=3, restart_window=600.0)
    assert backoff.lost(601.5, settings) == 2.0  # one older loss counts still
    assert backoff.losses == [2.0, 601.5]


def test_any_number_of_restarts_may_be_allowed() -> None:
    backoff = Backoff([0.0] * 5000)
    assert backoff.lost(1.0, back_off_settings(max_restarts=10**9)) == 60.0


def test_no_restarts_at_all_may_be_allowed() -> None:
    assert Backoff().lost(1.0, back_off_settings(max_restarts=0)) is None

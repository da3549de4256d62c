from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lockfile
import pytest

from echosched import PIDFile
from echosched.daemon import lock


def test_a_taken_lock_is_held_and_cannot_be_taken_again(tmp_path: Path) -> None:
    path = str(tmp_path / "x.pid")
    assert lock.is_held(path) is False
    descriptor = lock.take(path)
    assert descriptor is not None
    assert lock.is_held(path) is True
    assert lock.take(path) is None
    os.close(descriptor)
    assert lock.is_held(path) is False


def test_looking_does_not_keep_others_from_taking(tmp_path: Path) -> None:
    path = str(tmp_path / "x.pid")
    Path(path).write_text("")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            lock.is_held(path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            descriptor = lock.take_patiently(path, attempts=50)
            assert descriptor is not None
            os.close(descriptor)
    finally:
        stop.set()
        thread.join()


def test_a_file_replaced_meanwhile_is_not_mistaken_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    first = lock.take(str(path))
    assert first is not None
    lock.write_pid(first, os.getpid())
    assert lock.remove(str(path), first, os.getpid())
    second = lock.take(str(path))  # a new file: the old one's lock means nothing
    assert second is not None
    lock.write_pid(second, 4711)
    assert not lock.remove(str(path), first, os.getpid())
    assert path.read_text() == "4711\n"
    os.close(first)
    os.close(second)


def test_only_the_number_we_wrote_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    descriptor = lock.take(str(path))
    assert descriptor is not None
    lock.write_pid(descriptor, 4711)
    assert not lock.remove(str(path), descriptor, os.getpid())
    assert path.exists()
    os.close(descriptor)


def test_a_shorter_number_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("1234567\nrubbish\n")
    descriptor = lock.take(str(path))
    assert descriptor is not None
    lock.write_pid(descriptor, 12)
    assert path.read_bytes() == b"12\n"
    lock.write_pid(descriptor, None)
    assert path.read_bytes() == b""
    os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "pid"),
    [
        (b"12\n", 12),
        (b" 12 ", 12),
        (b"", None),
        (b"12 13\n", None),
        (b"-1\n", None),
        (b"0\n", None),
        (b"x", None),
        (b"9" * 30, None),
    ],
)
def test_a_pidfile_holds_one_number_or_nothing(tmp_path: Path, content: bytes, pid: int | None) -> None:
    (tmp_path / "x.pid").write_bytes(content)
    assert lock.read_pid(str(tmp_path / "x.pid")) == pid


def test_links_directories_pipes_and_sockets_are_no_lock_files(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for name in ("link", "directory", "pipe", "socket"):
        with pytest.raises(OSError, match=name):
            lock.take(str(tmp_path / name))
        with pytest.raises(lockfile.LockFailed):
            PIDFile(tmp_path / name).acquire()
        assert lock.read_pid(str(tmp_path / name)) is None
    assert (tmp_path / "target").read_text() == "keep\n"


def test_pidfile_is_a_lockfile_lock_with_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    mine, theirs = PIDFile(path), PIDFile(path)
    assert isinstance(mine, lockfile.LockBase)
    with pytest.raises(lockfile.NotLocked):
        mine.release()
    with mine:
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
        assert mine.is_locked()
        assert mine.i_am_locking()
        assert theirs.is_locked()
        assert not theirs.i_am_locking()
        assert theirs.read_pid() == os.getpid()
        with pytest.raises(lockfile.AlreadyLocked, match=f"locked by process {os.getpid()}"):
            theirs.acquire()
        with pytest.raises(lockfile.LockTimeout):
            theirs.acquire(timeout=0.01)
        with pytest.raises(lockfile.NotMyLock):
            theirs.release()
        with pytest.raises(lockfile.LockFailed, match="lives"):
            theirs.break_lock()
        mine.acquire()  # again: nothing happens
        assert mine.i_am_locking()
    assert not path.exists()
    assert not mine.is_locked()


def test_break_lock_removes_only_what_nobody_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("4711\n")
    PIDFile(path).break_lock()
    assert not path.exists()


def test_acquire_in_a_forked_child_writes_its_pid_and_only_the_owner_removes(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    script = """
import os, sys
from echosched import PIDFile
pidfile = PIDFile(sys.argv[1])
pidfile.acquire(write=False)
assert open(sys.argv[1], 'rb').read() == b''
child = os.fork()
if child == 0:
    pidfile.acquire()
    assert pidfile.read_pid() == os.getpid()
    grandchild = os.fork()
    if grandchild == 0:
        pidfile.release()
        os._exit(0)
    os.waitpid(grandchild, 0)
    assert PIDFile(sys.argv[1]).is_locked()
    pidfile.release()
    os._exit(0 if not os.path.exists(sys.argv[1]) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    assert done.returncode == 0


def test_the_file_of_a_dead_holder_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("4711\n")
    with PIDFile(path) as pidfile:
        assert pidfile.stale_pid == 4711


def test_adopted_over_exec_it_is_the_same_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    first = PIDFile(path)
    first.acquire()
    second = PIDFile.adopt(path, os.dup(first.fileno()))
    first.forget()
    assert second.i_am_locking()
    assert PIDFile(path).is_locked()
    second.release()
    assert not path.exists()


def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pidfile = PIDFile("x.pid")
    pidfile.acquire()
    monkeypatch.chdir("/")
    pidfile.release()
    assert not (tmp_path / "x.pid").exists()


def test_held_locks_that_were_removed_are_made_anew_unless_somebody_else_did(tmp_path: Path) -> None:
    entries: list[list[Any]] = []
    for name in ("a.pid", "b.lock"):
        descriptor = lock.take(str(tmp_path / name))
        assert descriptor is not None
        lock.write_pid(descriptor, os.getpid())
        entries.append([str(tmp_path / name), descriptor])
    locks = lock.HeldLocks(entries)
    complaints: list[str] = []
    locks.keep(complaints.append)
    assert complaints == []
    assert locks.as_list() == entries
    (tmp_path / "a.pid").unlink()
    locks.keep(complaints.append)
    assert "a.pid: had been removed; made anew" in complaints[0]
    assert lock.read_pid(str(tmp_path / "a.pid")) == os.getpid()
    assert lock.is_held(str(tmp_path / "a.pid"))
    (tmp_path / "b.lock").unlink()
    thief = lock.take(str(tmp_path / "b.lock"))
    assert thief is not None
    lock.write_pid(thief, 4711)
    locks.keep(complaints.append)
    assert "another process holds a new one" in complaints[1]
    locks.remove()
    assert not (tmp_path / "a.pid").exists()
    assert (tmp_path / "b.lock").read_text() == "4711\n"
    for descriptor in (thief, *locks.descriptors()):
        os.close(descriptor)

"""Surroundings: service managers, process 1, terminals that hang up, other users, a chroot, old libraries."""

from __future__ import annotations

import os
import pty
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_fixtures import STARTER, Home, environment_with, eventually, provide_home  # noqa: F401 - a fixture

from echosched.daemon import lock, proc

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def received(manager: socket.socket) -> dict[str, str]:
    lines = manager.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def spawn_with(home: Home, verb: str, environment: dict[str, str], **wishes: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        home.argv(verb, **wishes), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    home.popen.append(process)
    return process


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_everything(home: Home, abstract: bool) -> None:
    address = f"\0echosched-test-{os.getpid()}" if abstract else f"{home.path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(60)
        environment = environment_with(NOTIFY_SOCKET=address.replace("\0", "@"), WATCHDOG_USEC="600000")
        environment.pop("WATCHDOG_PID", None)
        process = spawn_with(home, "foreground", environment)
        ready = received(manager)
        while "READY" not in ready:
            assert "WATCHDOG" in ready  # while it starts, the beat is fresh
            ready = received(manager)
        assert ready == {"READY": "1", "MAINPID": str(process.pid), "STATUS": "warm"}
        begun = time.monotonic()
        for _ in range(3):
            assert received(manager) == {"WATCHDOG": "1"}
        assert time.monotonic() - begun < 10
        process.send_signal(signal.SIGHUP)
        reloading = received(manager)
        while "WATCHDOG" in reloading:
            reloading = received(manager)
        assert reloading["RELOADING"] == "1"
        assert abs(int(reloading["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 20
        again = received(manager)
        while "WATCHDOG" in again:
            again = received(manager)
        assert again["READY"] == "1"
        process.send_signal(signal.SIGTERM)
        stopping = received(manager)
        while "WATCHDOG" in stopping:
            stopping = received(manager)
        assert stopping["STOPPING"] == "1"
        process.communicate(timeout=60)
    environ = next(line for line in home.notes() if line.startswith("environment"))
    assert "NOTIFY_SOCKET" not in environ
    assert "WATCHDOG_USEC" not in environ


def test_an_unreachable_notify_socket_is_no_obstacle(home: Home) -> None:
    process = spawn_with(home, "foreground", environment_with(NOTIFY_SOCKET="/nonexistent/notify"))
    eventually(lambda: home.status()["health"] == "ok")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@needs_root
def test_as_process_one_it_reaps_everything_and_obeys_signals(home: Home) -> None:
    process = home.spawn("foreground", mode="orphan", prefix=("unshare", "-fp", "--mount-proc"))
    document = eventually(
        lambda: Path(home.paths.state).exists() and home.state()["ready_micros"] and home.state()
    )
    assert document["pid"] == 1
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (first,) = eventually(lambda: children.read_text().split())
    eventually(lambda: any(line.startswith("orphan") for line in home.notes()))
    below = Path(f"/proc/{first}/task/{first}/children")
    eventually(lambda: len(below.read_text().split()) == 1)  # only the worker is left
    os.kill(int(first), signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not lock.is_held(home.paths.pidfile)


def test_a_terminal_that_hangs_up_stops_a_foreground_daemon(home: Home) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execv(sys.executable, home.argv("foreground"))
    try:
        eventually(lambda: home.status()["ready"])
        assert home.status()["pid"] == pid
        os.kill(pid, signal.SIGHUP)  # with the terminal still there: a reload
        eventually(lambda: any(line.startswith("reload") for line in home.notes()))
    finally:
        os.close(master)
    assert os.waitpid(pid, 0)[1] == 0
    assert home.status()["last_exit"]["how"] == "clean"
    assert home.events("shutdown")[0]["signal"] == "SIGHUP"


def test_a_pipe_that_nobody_reads_does_not_stop_a_foreground_daemon(home: Home) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb") as filled:
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writing, True)
        process = subprocess.Popen(
            home.argv("foreground"), stdout=filled, stderr=subprocess.DEVNULL, text=True
        )
        home.popen.append(process)
    eventually(lambda: home.status()["health"] == "ok")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    os.close(reading)
    assert process.returncode == 0


def test_worker_has_neither_locks_nor_anything_its_starter_had_open(home: Home) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process = subprocess.Popen(
        home.argv("foreground"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[writing],
        text=True,
    )
    home.popen.append(process)
    os.close(writing)
    status = eventually(lambda: (s := home.status())["ready"] and s)
    assert os.read(reading, 1) == b""  # end of file: nobody holds the other end
    os.close(reading)
    names = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{status['worker_pid']}/fd")]
    assert not [name for name in names if name.endswith((".pid", ".lock"))]
    supervisor = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{status['pid']}/fd")]
    assert home.paths.pidfile in supervisor


@needs_root
def test_privileges_are_given_up_once_files_and_locks_are_there(home: Home, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory != Path("/") and directory != Path("/tmp"):
            directory.chmod(0o755)
    inner = Home(tmp_path / "inner")
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        inner.python = "/usr/bin/python3"  # this one lies where only root may go
    try:
        pid = inner.start(settings={"user": "nobody", "group": str(nobody.pw_gid)})
        status = inner.status()
        for each in (pid, status["worker_pid"]):
            words = Path(f"/proc/{each}/status").read_text()
            assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}" in words
            assert f"Gid:\t{nobody.pw_gid}\t{nobody.pw_gid}" in words
            groups = next(line for line in words.splitlines() if line.startswith("Groups:")).split()[1:]
            assert "0" not in groups
        assert Path(inner.paths.state).stat().st_uid == nobody.pw_uid
        # PDEATHSIG is armed after the change of credentials.
        worker = status["worker_pid"]
        os.kill(worker, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not proc.is_alive(worker))
        pid = inner.start(settings={"user": "nobody"})
        assert inner.run("stop").returncode == 0
        assert not os.path.exists(inner.paths.pidfile)
    finally:
        inner.kill()


@needs_root
def test_in_a_chroot_paths_are_given_from_outside(tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    inner = Home(jail / "home")
    (jail / "home").mkdir(parents=True)
    wanted = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/dev",
        "/proc",
        "/etc",
        sys.prefix,
        sys.base_prefix,
        str(ROOT),
    ]
    places: list[str] = []
    for place in sorted(filter(os.path.exists, wanted)):
        if not any(place == other or place.startswith(other + "/") for other in places):
            places.append(place)
    script = f"""
    set -e
    for place in {" ".join(places)}; do
        mkdir -p {jail}$place; mount --rbind $place {jail}$place
    done
    exec "$@"
    """
    process = inner.spawn(
        "foreground",
        prefix=("unshare", "-m", "sh", "-c", script, "sh"),
        settings={"chroot": str(jail)},
    )
    try:
        status = eventually(lambda: (s := inner.status())["ready"] and s)
        assert os.readlink(f"/proc/{status['pid']}/root") == str(jail)
        assert os.readlink(f"/proc/{status['worker_pid']}/root") == str(jail)
        assert status["health"] == "ok"
        assert (jail / "home" / "notes").exists()
        assert inner.run("stop").returncode == 0
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        inner.kill()


def test_no_core_files_and_the_umask_are_as_set(home: Home) -> None:
    pid = home.start(settings={"umask": 0o077, "working_directory": "/usr"})
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits
    assert os.readlink(f"/proc/{pid}/cwd") == "/usr"
    assert "Umask:\t0077" in Path(f"/proc/{home.status()['worker_pid']}/status").read_text()


def test_supervisor_and_worker_stay_small(home: Home) -> None:
    pid = home.start()
    rss = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    assert int(rss.split()[1]) < 14_000, "kB; the supervisor imports next to nothing"


def test_status_imports_nothing_heavy(home: Home) -> None:
    home.start()
    script = (
        "import sys; sys.argv = ['x']; before = set(sys.modules);"
        "from echosched.daemon.inspect import inspect; from echosched.daemon.settings import Paths;"
        f"inspect(Paths(pidfile={home.paths.pidfile!r}, state={home.paths.state!r}));"
        "print(' '.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {
        "dataclasses",
        "typing",
        "logging",
        "asyncio",
        "psutil",
        "lockfile",
        "daemon",
        "subprocess",
        "socket",
        "ctypes",
    }
    assert not heavy & set(done.stdout.split())
    assert STARTER

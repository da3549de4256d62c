"""Starting: exactly one daemon, told the truth at the terminal, whatever the surroundings are."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_fixtures import Home, eventually, provide_home, ticks_of  # noqa: F401 - a fixture

from echosched.daemon import lock, proc


def test_started_means_ready_and_stopped_means_gone(home: Home) -> None:
    pid = home.start()
    status = home.status()
    assert (status["running"], status["pid"], status["health"], status["lsb"]) == (True, pid, "ok", 0)
    assert Path(home.paths.pidfile).read_bytes() == b"%d\n" % pid
    assert os.stat(home.paths.pidfile).st_mode & 0o777 == 0o644
    stopped = home.run("stop")
    assert (stopped.returncode, stopped.stdout.strip()) == (0, str(pid))
    assert not proc.is_alive(pid)
    assert not os.path.exists(home.paths.pidfile)
    status = home.status()
    assert (status["running"], status["lsb"], status["last_exit"]["how"]) == (False, 3, "clean")
    assert home.notes()[-1] == "leaving"


def test_start_of_a_running_daemon_says_so_with_its_pid(home: Home) -> None:
    pid = home.start()
    again = home.run("start")
    assert (again.returncode, again.stdout.split()) == (0, [str(pid), "already"])
    exclusive = home.run("start", options={"exclusive": True})
    assert exclusive.returncode == 1
    assert str(pid) in exclusive.stderr
    forced = home.run("start", options={"force": True})
    assert forced.stdout.split()[1] == "started"
    assert int(forced.stdout.split()[0]) != pid


@pytest.mark.parametrize("stale", [False, True])
def test_twenty_starters_at_once_give_one_daemon_and_all_succeed(home: Home, stale: bool) -> None:
    if stale:
        Path(home.paths.pidfile).write_text("99999\n")
    starters = [home.spawn("start", settings={"start_wait": 60}) for _ in range(20)]
    answers = [starter.communicate(timeout=90) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 20, answers
    words = [out.split() for out, _ in answers]
    assert len({word[0] for word in words}) == 1
    assert sorted(word[1] for word in words) == ["already"] * 19 + ["started"]
    assert len([line for line in home.notes() if line.startswith("start ")]) == 1
    assert len(home.events("supervisor_start")) == 1


def test_a_pidfile_naming_an_innocent_process_does_not_prevent_start_and_stop_spares_it(
    home: Home,
) -> None:
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            Path(home.paths.pidfile).write_text(f"{innocent.pid}\n")
            assert home.status()["lsb"] == 1
            stopped = home.run("stop")
            assert (stopped.returncode, stopped.stdout.strip()) == (0, "None")
            assert innocent.poll() is None
            Path(home.paths.pidfile).write_text(f"{innocent.pid}\n")
            pid = home.start()
            assert home.events("cleanup")[0]["removed_pid"] == innocent.pid
            assert home.run("stop").stdout.strip() == str(pid)
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_stop_signals_nobody_whom_it_cannot_identify(home: Home) -> None:
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            # A lock held by a process that never wrote a state file: nobody we know.
            descriptor = lock.take(home.paths.pidfile)
            assert descriptor is not None
            lock.write_pid(descriptor, innocent.pid)
            for options in ({}, {"force": True}):
                refused = home.run("stop", options=options)
                assert refused.returncode == 1
                assert "cannot be identified" in refused.stderr
                assert innocent.poll() is None
            os.close(descriptor)
        finally:
            innocent.kill()


def test_a_database_held_by_another_daemon_is_refused(home: Home, tmp_path: Path) -> None:
    pid = home.start()
    other = Home(tmp_path / "other")
    refused = other.run("start", paths={"db": home.paths.db})
    assert refused.returncode == 1
    assert f"{home.paths.db}: in use by daemon {pid}" in refused.stderr
    assert not proc.is_alive(pid) or home.status()["health"] == "ok"
    assert not os.path.exists(other.paths.pidfile)


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("exit:7", 7, "the worker ended with exit code 7 before it was ready"),
        ("raise", 1, "RuntimeError: the worker is broken"),
        ("segv", 1, "SIGSEGV"),
        ("fail:6:echosched.toml: job.x: bad", 6, "test: echosched.toml: job.x"),
    ],
)
def test_a_failure_before_ready_reaches_the_terminal(home: Home, mode: str, code: int, said: str) -> None:
    failed = home.run("start", mode=mode)
    assert failed.returncode == code
    assert said in failed.stderr
    assert "started" not in failed.stdout
    eventually(lambda: not lock.is_held(home.paths.pidfile))
    status = home.status()
    assert (status["running"], status["lsb"], status["last_exit"]["how"]) == (False, 3, "failed to start")
    assert home.start() > 0


def test_a_loser_whose_winner_fails_tries_again(home: Home) -> None:
    winner = home.spawn("start", mode="hang", settings={"start_limit": 1.0, "watchdog": 1.0})
    eventually(lambda: lock.is_held(home.paths.pidfile))
    loser = home.run("start")
    assert winner.wait(timeout=60) == 1
    assert (loser.returncode, loser.stdout.split()[1]) == (0, "started")


def test_a_loser_waits_no_longer_than_it_was_told(home: Home) -> None:
    home.spawn("start", mode="hang", settings={"start_limit": 30.0})
    eventually(lambda: lock.is_held(home.paths.pidfile))
    loser = home.run("start", options={"wait": 0.3})
    assert loser.returncode == 1
    assert "which is not ready" in loser.stderr


def test_a_worker_program_that_is_not_there_is_a_start_failure(home: Home) -> None:
    failed = home.run("start", program="/nonexistent/python")
    assert failed.returncode == 1
    assert (
        failed.stderr
        == "test: the worker cannot be started: /nonexistent/python: No such file or directory\n"
    )


def test_a_socket_path_that_is_too_long_is_one_clear_line(home: Home) -> None:
    failed = home.run("start", paths={"socket": f"{home.path}/{'s' * 108}"})
    assert failed.returncode == 1
    assert "longer than a socket's path may be (107 bytes)" in failed.stderr
    assert not os.path.exists(home.paths.pidfile)


def test_an_unknown_user_is_refused_before_anything_is_made(home: Home) -> None:
    failed = home.run("start", settings={"user": "nobody-of-that-name"})
    assert failed.returncode == 4
    assert "nobody-of-that-name" in failed.stderr
    assert not os.path.exists(home.paths.pidfile)


def test_an_unwritable_directory_is_one_clear_line(home: Home) -> None:
    Path(home.path / "file").write_text("")
    failed = home.run("start", paths={"log": f"{home.path}/file/e.log"})
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert f"{home.path}/file" in failed.stderr


def test_start_in_a_pipeline_returns(home: Home) -> None:
    command = " ".join(f"'{word}'" for word in home.argv("start"))
    done = subprocess.run(
        f"{command} 2>&1 | cat", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split()[1] == "started"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_start_with_closed_standard_descriptors(home: Home, closed: str) -> None:
    command = " ".join(f"'{word}'" for word in home.argv("start"))
    done = subprocess.run(f"{command} {closed}", shell=True, timeout=60, check=False)
    assert done.returncode == 0
    status = home.status()
    assert status["health"] == "ok"
    assert os.readlink(f"/proc/{status['pid']}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{status['pid']}/fd/2") == home.paths.out


def test_start_with_a_socket_as_stdin_detaches_all_the_same(home: Home) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            home.argv("start"), stdin=theirs, capture_output=True, text=True, timeout=60, check=True
        )
    pid = int(done.stdout.split()[0])
    stat = proc.read_stat(pid)
    assert stat is not None
    assert stat.session not in (pid, os.getsid(0))  # own session, and not its leader: no terminal ever again


def test_start_is_quick_with_the_highest_descriptor_limit(home: Home) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    highest = int(Path("/proc/sys/fs/nr_open").read_text())
    prefix: tuple[str, ...] = ("prlimit", f"--nofile={highest}:{highest}")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        prefix = ("prlimit", f"--nofile={limit}:{limit}")  # not even root may raise it here
    begun = time.monotonic()
    assert home.run("start", prefix=prefix).returncode == 0
    assert time.monotonic() - begun < 20  # to close each of them would take minutes


def test_a_zombie_holder_is_dead(home: Home) -> None:
    process = home.spawn("foreground")
    eventually(lambda: home.status()["ready"])
    pid = process.pid
    ticks = ticks_of(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: (stat := proc.read_stat(pid)) is not None and stat.state == "Z")
    assert not proc.is_alive(pid, ticks)
    status = home.status()
    assert (status["running"], status["lsb"]) == (False, 1)
    assert home.start() != pid


def test_a_host_that_ends_everything_with_its_first_process_is_explained(home: Home) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a pid namespace")
    done = home.run("start", prefix=("unshare", "-fp", "--kill-child", "--mount-proc"))
    assert done.returncode == 0, done.stderr
    eventually(lambda: not lock.is_held(home.paths.pidfile))
    status = home.status()
    assert (status["running"], status["lsb"]) == (False, 1)
    assert re.fullmatch(r"vanished \d+\.\d s after detaching", status["last_exit"]["how"])
    assert "--foreground" in status["last_exit"]["detail"]
    home.start()
    assert home.status()["last_exit"]["how"].startswith("vanished")


def test_the_foreground_keeps_its_pid_and_shows_the_journal(home: Home) -> None:
    process = home.spawn("foreground")
    status = eventually(lambda: (s := home.status())["ready"] and s)
    assert (status["pid"], status["mode"]) == (process.pid, "foreground")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == Path(str(home.paths.log)).read_text()
    assert '"event":"shutdown","signal":"SIGINT"' in out
    assert "worker says hello" in err
    assert not os.path.exists(home.paths.pidfile)


def test_a_failed_start_in_the_foreground_says_why_once_and_exits_with_the_workers_code(home: Home) -> None:
    failed = home.run("foreground", mode="fail:78:it is broken")
    assert failed.returncode == 78
    assert failed.stderr.count("it is broken") == 1
    assert "test: it is broken" in failed.stderr


def test_a_worker_alone_obeys_signals_and_cleans_up(home: Home) -> None:
    process = home.spawn("alone")
    status = eventually(lambda: (s := home.status())["ready"] and s)
    assert (status["pid"], status["worker_pid"], status["health"]) == (process.pid, process.pid, "ok")
    process.send_signal(signal.SIGHUP)
    eventually(lambda: any(line.startswith("reload") for line in home.notes()))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert home.status()["last_exit"]["how"] == "clean"
    assert not os.path.exists(home.paths.pidfile)

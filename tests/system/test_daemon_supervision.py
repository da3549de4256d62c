"""Supervising: workers that die, hang or never come up; children that outlive them; a stop that ends all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_fixtures import Home, eventually, provide_home, ticks_of  # noqa: F401 - a fixture

from echosched.daemon import lock, proc

QUICK = {"watchdog": 1.2}


def worker_of(home: Home, other_than: int | None = None) -> int:
    return int(
        eventually(
            lambda: (
                (w := home.status()["worker_pid"])
                and w != other_than
                and home.status()["health"] == "ok"
                and w
            )
        )
    )


def seconds_for(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_a_killed_worker_is_replaced(home: Home) -> None:
    pid = home.start()
    first = worker_of(home)
    os.kill(first, signal.SIGKILL)
    second = worker_of(home, first)
    status = home.status()
    assert (status["pid"], status["restarts"]) == (pid, 1)
    assert second != first
    assert "SIGKILL" in status["last_worker_exit"]["why"]
    ended = home.events("worker_exit")[0]
    assert (ended["pid"], ended["exit_code"], ended["signal"]) == (first, None, "SIGKILL")
    assert home.events("worker_restart")[0]["restarts"] == 1


def test_a_stopped_worker_shows_as_stalled_at_once_and_the_watchdog_replaces_it(home: Home) -> None:
    pid = home.start(settings={"watchdog": 3.0})
    first = worker_of(home)
    os.kill(pid, signal.SIGSTOP)  # nobody bites before we have looked
    os.kill(first, signal.SIGSTOP)
    eventually(lambda: home.status()["health"] == "stalled")
    assert min(seconds_for(home.status) for _ in range(5)) < 0.5
    assert home.status()["worker_pid"] == first
    os.kill(pid, signal.SIGCONT)
    worker_of(home, first)
    bite = home.events("watchdog")[0]
    assert bite["pid"] == first
    assert bite["age_seconds"] >= 3.0
    assert home.events("worker_exit")[0]["signal"] == "SIGABRT"
    assert (
        "Fatal Python error: Aborted" in Path(str(home.paths.out)).read_text()
    )  # all stacks, for the reader


def test_a_worker_that_hangs_in_its_warm_up_is_a_start_failure(home: Home) -> None:
    failed = home.run("start", mode="hang", settings={"start_limit": 0.5, "watchdog": 0.5})
    assert failed.returncode == 1
    assert "no beat for" in failed.stderr


def test_a_crash_loop_gives_up_and_says_why(home: Home) -> None:
    home.start(mode="crash", settings={"max_restarts": 3, "backoff_first": 0.05})
    eventually(lambda: not lock.is_held(home.paths.pidfile))
    status = home.status()
    assert (status["running"], status["lsb"]) == (False, 3)
    assert (status["last_exit"]["how"], status["last_exit"]["exit_code"]) == ("gave up", 1)
    assert "4 workers ended within 600 s; the last: ended with exit code 9" in status["last_exit"]["detail"]
    assert [event["delay_seconds"] for event in home.events("worker_restart")] == [0.05, 0.1, 0.2]


def test_the_worker_dies_with_its_supervisor_and_the_next_status_tells(home: Home) -> None:
    pid = home.start()
    worker = worker_of(home)
    ticks = ticks_of(worker)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not proc.is_alive(worker, ticks))
    status = home.status()
    assert (status["running"], status["lsb"], status["last_exit"]["how"]) == (False, 1, "signal 9")
    second = home.start()
    assert home.status()["last_exit"]["how"] == "signal 9"
    assert home.events("cleanup")[-1]["removed_pid"] == pid
    assert second != pid


def test_a_stopped_worker_dies_with_its_supervisor_too(home: Home) -> None:
    pid = home.start()
    worker = worker_of(home)
    ticks = ticks_of(worker)
    os.kill(worker, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not proc.is_alive(worker, ticks))


def switches(pid: int) -> int:
    """Return how often the process has gone to wait for something."""
    words = Path(f"/proc/{pid}/status").read_text().split("\nvoluntary_ctxt_switches:")[1]
    return int(words.split()[0])


def test_a_pause_of_the_whole_container_is_not_taken_for_a_hang(home: Home) -> None:
    pid = home.start(settings={"watchdog": 3.0})
    worker = worker_of(home)
    for each in (pid, worker):
        os.kill(each, signal.SIGSTOP)
    time.sleep(5)
    waits = switches(pid)
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: switches(pid) > waits)  # the supervisor runs first, and sees a very old beat
    os.kill(worker, signal.SIGCONT)
    eventually(lambda: home.status()["health"] == "ok")
    assert home.status()["worker_pid"] == worker
    assert home.events("watchdog") == []


def test_without_a_watchdog_a_silent_worker_is_left_alone(home: Home) -> None:
    home.start(settings={"watchdog": 0.0})
    assert home.status()["health"] == "ok"
    assert home.run("stop").returncode == 0


def test_removed_files_of_a_running_daemon_come_back(home: Home) -> None:
    pid = home.start(settings={"watchdog": 1.2})
    for path in (home.paths.pidfile, str(home.paths.db_lock), home.paths.beat):
        os.unlink(path)
    eventually(lambda: home.status()["health"] == "ok")
    assert home.status()["pid"] == pid
    eventually(lambda: lock.is_held(str(home.paths.db_lock)))
    assert home.run("start").stdout.split() == [str(pid), "already"]
    assert home.run("stop").returncode == 0
    assert not os.path.exists(home.paths.pidfile)


def test_a_full_disk_stops_neither_supervision_nor_status(home: Home, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    inner = Home(place)
    try:
        pid = inner.start()
        worker = worker_of(inner)
        with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)
        os.kill(worker, signal.SIGKILL)
        second = worker_of(inner, worker)
        assert inner.status()["pid"] == pid
        (place / "filler").unlink()
        os.kill(second, signal.SIGKILL)
        worker_of(inner, second)
        assert inner.state()["restarts"] == 2
        assert inner.run("stop").returncode == 0
        assert inner.status()["last_exit"]["how"] == "clean"
    finally:
        inner.kill()
        subprocess.run(["umount", str(place)], check=True)


def child_line(home: Home) -> tuple[int, int]:
    line = eventually(lambda: next((line for line in home.notes() if line.startswith("child ")), None))
    return int(line.split()[1]), int(line.split()[2])


def test_a_child_outlives_its_worker_and_its_exit_code_reaches_the_next(home: Home) -> None:
    home.start(mode="child:60:42")
    child, ticks = child_line(home)
    first = worker_of(home)
    os.kill(first, signal.SIGKILL)
    worker_of(home, first)
    assert proc.is_alive(child, ticks)
    (home.path / "enough").touch()
    started = next(line for line in reversed(home.notes()) if line.startswith("start "))
    assert f"Child('7.1', pid={child}, start_ticks={ticks}, status=None)" in started
    exited = eventually(lambda: next((line for line in home.notes() if line.startswith("child_exit")), None))
    assert f"pid={child}, start_ticks={ticks}, status=42)" in exited


def test_an_exit_between_two_workers_is_kept_for_the_next(home: Home) -> None:
    pid = home.start(mode="child:60:43")
    child, ticks = child_line(home)
    first = worker_of(home)
    os.kill(pid, signal.SIGSTOP)  # it learns of both when both are dead
    os.kill(first, signal.SIGKILL)
    (home.path / "enough").touch()
    eventually(lambda: not proc.is_alive(child, ticks))
    os.kill(pid, signal.SIGCONT)
    worker_of(home, first)
    started = next(line for line in reversed(home.notes()) if line.startswith("start "))
    assert f"Child('7.1', pid={child}, start_ticks={ticks}, status=43)" in started


def test_a_stop_ends_the_children_that_the_worker_left(home: Home) -> None:
    home.start(mode="child:60:0")
    child, ticks = child_line(home)
    assert home.run("stop").returncode == 0
    assert not proc.is_alive(child, ticks)


def test_a_stop_without_a_worker_gives_children_their_grace(home: Home) -> None:
    home.start(mode="child:60:0", settings={"backoff_first": 30.0, "grace": 0.5, "kill_after": 0.5})
    child, ticks = child_line(home)
    os.kill(worker_of(home), signal.SIGKILL)
    eventually(lambda: home.events("worker_restart"))
    begun = time.monotonic()
    assert home.run("stop").returncode == 0
    assert time.monotonic() - begun >= 0.5
    assert not proc.is_alive(child, ticks)


def test_a_stop_that_keeps_jobs_leaves_children_running_and_hands_them_on(home: Home) -> None:
    home.start(mode="child:60:0")
    child, ticks = child_line(home)
    assert home.run("stop", options={"keep_jobs": True}).returncode == 0
    assert proc.is_alive(child, ticks)
    assert ["7.1", child, ticks, None] in home.state()["children"]
    assert next(line for line in home.notes() if line.startswith("stop ")).startswith("stop SIGRTMIN")


def test_force_ends_everything_and_leaves_no_pidfile(home: Home) -> None:
    pid = home.start(mode="child:60:0")
    child, _ = child_line(home)
    worker = worker_of(home)
    stopped = home.run("stop", options={"force": True})
    assert (stopped.returncode, stopped.stdout.strip()) == (0, str(pid))
    for each in (pid, worker, child):
        assert not proc.is_alive(each)
    assert not os.path.exists(home.paths.pidfile)
    assert home.status()["last_exit"]["detail"] == "stopped with --force, jobs included"


def test_a_hung_worker_does_not_hold_up_a_stop_for_ever(home: Home) -> None:
    home.start(settings={"grace": 0.2, "kill_after": 0.2})
    worker = worker_of(home)
    os.kill(worker, signal.SIGSTOP)
    begun = time.monotonic()
    assert home.run("stop").returncode == 0
    assert time.monotonic() - begun < 15  # after 20 s it would have given up waiting
    assert not proc.is_alive(worker)


def test_hup_reloads_and_the_supervisor_takes_its_share(home: Home) -> None:
    home.start()
    assert home.run("reload").returncode == 0
    eventually(lambda: "reloaded" in home.notes())
    home.run("stop")
    assert any(line.startswith("stop SIGTERM False 2.5 ") for line in home.notes())  # the new grace


def test_orphans_nobody_reported_are_reaped(home: Home) -> None:
    pid = home.start(mode="orphan")
    eventually(lambda: any(line.startswith("orphan") for line in home.notes()))
    orphan = int(next(line for line in home.notes() if line.startswith("orphan")).split()[1])
    eventually(lambda: proc.read_stat(orphan) is None)  # not even a zombie is left
    assert home.status()["pid"] == pid


def test_an_upgrade_keeps_pid_lock_and_children(home: Home) -> None:
    pid = home.start(mode="child:60:0")
    child, ticks = child_line(home)
    first = worker_of(home)
    assert home.run("upgrade").returncode == 0
    second = worker_of(home, first)
    eventually(lambda: (home.state()["last_upgrade"] or {}).get("ok"))
    assert home.status()["pid"] == pid
    assert home.status()["restarts"] == 0
    assert lock.is_held(home.paths.pidfile)
    assert proc.is_alive(child, ticks)
    eventually(lambda: not proc.is_alive(first))
    went = eventually(lambda: next((line for line in home.notes() if line.startswith("go ")), None))
    assert f"pid={child}" in went
    # The new supervisor really supervises: it restarts, and it stops everything.
    os.kill(second, signal.SIGKILL)
    worker_of(home, second)
    assert home.run("stop").returncode == 0
    assert not proc.is_alive(child, ticks)


def test_an_upgrade_whose_standby_fails_changes_nothing(home: Home) -> None:
    pid = home.start()
    first = worker_of(home)
    (home.path / "mode").write_text("fail:3:the new version is broken")
    home.run("upgrade")
    verdict = eventually(lambda: home.state()["last_upgrade"])
    assert verdict["ok"] is False
    assert "the new version is broken" in verdict["detail"]
    assert home.status()["pid"] == pid
    assert worker_of(home) == first
    assert not any(line.startswith("retire") for line in home.notes())


def test_an_upgrade_whose_new_worker_dies_taking_over_is_told_and_supervised(home: Home) -> None:
    pid = home.start()
    first = worker_of(home)
    (home.path / "mode").write_text("dieongo")
    home.run("upgrade")
    verdict = eventually(lambda: home.state()["last_upgrade"])
    assert verdict["ok"] is False
    assert "took over, then ended with exit code 5" in verdict["detail"]
    (home.path / "mode").write_text("serve")
    worker_of(home, first)
    assert home.status()["pid"] == pid


def test_usr1_opens_journal_and_out_anew(home: Home) -> None:
    pid = home.start()
    worker_of(home)
    for name in ("e.log", "e.out"):
        os.rename(home.path / name, home.path / f"{name}.old")
    assert home.run("reopen").returncode == 0
    eventually(lambda: any(line.startswith("reopen") for line in home.notes()))
    for each in (pid, home.status()["worker_pid"]):
        eventually(lambda each=each: os.readlink(f"/proc/{each}/fd/2") == home.paths.out)  # type: ignore[misc]
    home.run("stop")
    assert home.events("shutdown")


def test_force_ends_jobs_that_a_killed_daemon_left_behind(home: Home) -> None:
    pid = home.start(mode="child:60:0")
    child, ticks = child_line(home)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not lock.is_held(home.paths.pidfile))
    assert proc.is_alive(child, ticks)
    mark = f"MARK={home.path}:{{0}}."
    assert home.run("stop", options={"force": True, "child_mark": mark}).returncode == 0
    assert not proc.is_alive(child, ticks)
    assert not os.path.exists(home.paths.pidfile)


@pytest.mark.parametrize("times", [2])
def test_upgrades_can_follow_each_other(home: Home, times: int) -> None:
    home.start()
    worker = worker_of(home)
    for _ in range(times):
        home.run("upgrade")
        worker = worker_of(home, worker)
    home.run("stop")
    assert home.status()["last_exit"]["how"] == "clean"


def test_rotation_loses_no_line(home: Home) -> None:
    home.start(mode="chatter", settings={"log_max_size": 20_000, "log_keep": 50, "watchdog": 2.5})
    eventually(lambda: (home.path / "e.log.3").exists())
    home.run("stop")
    lines: list[str] = []
    for file in sorted(
        home.path.glob("e.log*"), key=lambda f: int(f.suffix[1:]) if f.suffix != ".log" else 0
    ):
        lines += file.read_text().splitlines()
    numbers = sorted(int(line.split()[1]) for line in lines if line.startswith("line "))
    total = int(next(line for line in home.notes() if line.startswith("chattered")).split()[1])
    assert numbers == list(range(total))

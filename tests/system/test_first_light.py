"""The spine, as a user meets it: start, jobs run, crashes are survived, errors are told."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import House, eventually, waiting

QUICK = """
[job.hello]
command = ["echo", "hello"]
[job.tock]
schedule = "every 1s"
command = "date +%s"
"""


def test_started_means_started_and_the_job_runs_on_without_its_launcher(house: House) -> None:
    house.write(QUICK)
    assert "started (pid" in house.ok("start")
    status = house.status
    assert status["running"]
    assert status["health"] == "ok"
    assert status["pid"] == house.pid
    assert os.getsid(status["pid"]) != os.getsid(0)
    assert eventually(lambda: len(house.history("tock", "--state", "succeeded")) >= 3)
    assert "running already" in house.ok("start")
    assert house.run("start", "--exclusive").returncode == 1
    assert "stopped" in house.ok("stop")
    assert house.run("status").returncode == 3
    assert "not running" in house.ok("stop")


def test_the_pidfile_holds_the_pid_and_nothing_else(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    pidfile = house.directory / "echosched.pid"
    assert pidfile.read_bytes() == f"{house.status['pid']}\n".encode()
    assert stat.S_IMODE(pidfile.stat().st_mode) == 0o644
    assert stat.S_IMODE((house.directory / "echosched.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((house.directory / "echosched.db").stat().st_mode) == 0o640
    os.kill(house.pid, signal.SIGTERM)
    eventually(lambda: not pidfile.exists())
    assert house.status["last_exit"]["how"] == "clean"


def test_a_running_job_survives_the_workers_death_with_exit_code_and_output(house: House) -> None:
    enough = house.directory / "enough"
    house.write(f'[job.slow]\ncommand = "echo one; {waiting(enough)}; echo two; exit 7"\n')
    house.ok("start")
    house.ok("run", "slow")
    eventually(lambda: house.events("run_start"))
    os.kill(house.worker_pid, signal.SIGKILL)
    eventually(lambda: house.events("run_adopted"))
    enough.touch()
    row = house.last("slow")
    assert (row["state"], row["exit_code"]) == ("failed", 7)
    assert house.ok("output", str(row["run"])) == "one\ntwo\n"
    assert house.status["restarts"] == 1


def test_a_running_job_survives_the_death_of_the_whole_daemon(house: House) -> None:
    enough = house.directory / "enough"
    house.write(f'[job.slow]\ncommand = "echo one; {waiting(enough)}; echo two"\n')
    house.ok("start")
    house.ok("run", "slow")
    eventually(lambda: house.events("run_start"))
    worker = house.worker_pid
    os.kill(house.pid, signal.SIGKILL)
    eventually(lambda: house.run("status").returncode == 1)
    eventually(lambda: not os.path.exists(f"/proc/{worker}"))  # it leaves with its supervisor
    assert "signal 9" in house.run("status").stdout
    house.ok("start")
    enough.touch()
    row = house.last("slow")
    assert row["state"] in ("succeeded", "abandoned")  # the exit code of a stranger needs Linux 6.15
    assert house.ok("output", str(row["run"])) == "one\ntwo\n"


def test_a_hung_worker_shows_as_stalled_and_is_replaced(house: House) -> None:
    house.write('[daemon]\nwatchdog = "3s"\n' + QUICK)
    house.ok("start")
    supervisor, worker = house.pid, house.worker_pid
    os.kill(supervisor, signal.SIGSTOP)  # it replaces nobody before we have looked
    os.kill(worker, signal.SIGSTOP)
    eventually(lambda: house.status["health"] == "stalled")
    os.kill(supervisor, signal.SIGCONT)
    eventually(lambda: house.worker_pid not in (0, worker) and house.status["health"] == "ok")
    assert house.events("watchdog")[0]["pid"] == worker


def test_tick_lines_tell_the_slots_that_then_fire(house: House) -> None:
    house.write(
        '[daemon]\ntick = "1s"\n[job.tock]\nschedule = "*/1 * * * * *"\ncommand = "true"\n'
        'catchup = "all"\noverlap = "allow"\n'  # also where the machine stood still for a moment
    )
    house.ok("start")
    eventually(lambda: len(house.events("tick")) >= 4)
    ticks = house.events("tick")
    assert [tick["tick"] for tick in ticks[:4]] == [1, 2, 3, 4]
    promised = {tick["next"]["tock"] for tick in ticks[:3]}
    eventually(lambda: promised <= {event["slot"] for event in house.events("slot_claimed")})


def test_boot_jobs_fire_once_per_daemon_and_not_per_worker(house: House) -> None:
    house.write('[job.boot]\nschedule = "@boot"\ncommand = "true"\n')
    house.ok("start")
    assert house.last("boot")["trigger"] == "boot"
    os.kill(house.worker_pid, signal.SIGKILL)
    eventually(lambda: house.status["restarts"] == 1 and house.status["health"] == "ok")
    assert len(house.history("boot")) == 1
    house.ok("restart")
    eventually(lambda: len(house.history("boot")) == 2)


def test_a_missed_slot_is_caught_up_once_and_the_others_are_accounted_for(house: House) -> None:
    house.write('[job.tock]\nschedule = "every 1s"\ncommand = "true"\n')
    house.ok("start")
    eventually(lambda: house.history("tock", "--state", "succeeded"))
    house.ok("stop")
    time.sleep(3)
    house.ok("start")
    rows = eventually(lambda: [r for r in house.history("tock") if r["state"] == "missed"])
    assert "coalesced" in rows[0]["error"]
    slots = sorted(row["slot"] for row in house.history("tock"))
    assert len(slots) == len(set(slots))


def test_a_reload_swaps_and_a_bad_one_changes_nothing(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    house.write(QUICK.replace("hello]", "bye]"))
    assert "1 added, 1 removed" in house.ok("reload")
    house.write("[job.bad]\nschedule = '61 * * * *'\ncommand = 'true'\ncomand = 'x'\n[nonsense]\n")
    refused = house.run("reload")
    assert refused.returncode == 6
    assert "minute" in refused.stderr
    assert 'did you mean "command"' in refused.stderr
    assert "nonsense" in refused.stderr
    assert house.events("reload_failed")
    os.kill(house.pid, signal.SIGHUP)
    eventually(lambda: len(house.events("reload_failed")) == 2)
    assert {row["name"] for row in house.json("jobs")} == {"bye", "tock"}
    assert house.run("restart").returncode == 6
    assert house.status["running"]


def test_pause_survives_a_restart(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    house.ok("pause", "tock")
    house.ok("restart")
    assert house.status["jobs"]["paused"] == 1
    count = len(house.history("tock"))
    time.sleep(1.5)
    assert len(house.history("tock")) == count
    house.ok("resume", "tock")
    eventually(lambda: len(house.history("tock")) > count)


def test_run_wait_shows_the_output_and_answers_for_the_outcome(house: House) -> None:
    house.write('[job.good]\ncommand = "echo out; echo err >&2"\n[job.bad]\ncommand = "exit 4"\n')
    house.ok("start")
    assert house.ok("run", "good", "--wait") == "out\nerr\n"
    failed = house.run("run", "bad", "--wait")
    assert failed.returncode == 1
    assert "exit code 4" in failed.stderr
    unknown = house.run("run", "goood")
    assert unknown.returncode == 1
    assert "did you mean good" in unknown.stderr


def test_run_wait_shows_every_attempt_and_output_is_there_when_nothing_runs(house: House) -> None:
    command = "echo try $ECHOSCHED_ATTEMPT; test $ECHOSCHED_ATTEMPT = 3"
    house.write(f'[job.again]\ncommand = "{command}"\nretries = 2\nretry_delay = "10ms"\n')
    house.ok("start")
    assert house.ok("run", "again", "--wait") == "try 1\ntry 2\ntry 3\n"
    house.ok("stop")
    assert house.ok("output", "1") == "try 3\n"
    assert house.ok("output", "1", "--attempt", "2") == "try 2\n"


def test_a_secret_stands_in_no_reason_and_no_file(house: House) -> None:
    secret = "Zq9-very-secret"
    house.write('[job.leak]\ncommand = ["${env:HOUSE_SECRET}", "x"]\n')
    house.environ["HOUSE_SECRET"] = secret
    house.ok("start")
    failed = house.run("run", "leak", "--wait")
    assert "command not found: [secret]" in failed.stderr
    [run] = house.history("leak")
    assert run["error"].startswith("command not found: [secret]")
    house.ok("stop")
    for path in house.directory.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


# ── what is wrong is told at the terminal ─────────────────────────────────────────────────────


def test_all_config_errors_are_told_and_no_daemon_is_left(house: House) -> None:
    house.write(
        '[job.a]\nschedule = "61 * * * *"\ncommand = "x"\n[job.b]\nshedule = "@daily"\ncommand = "y"\n'
    )
    refused = house.run("start")
    assert refused.returncode == 6
    assert "echosched.toml: job.a.schedule: " in refused.stderr
    assert 'did you mean "schedule"' in refused.stderr
    assert all(line.startswith("echoschedd: ") for line in refused.stderr.splitlines())
    assert house.run("status").returncode == 3
    assert house.run("check").returncode == 78


def test_a_file_that_is_no_database_is_refused_and_untouched(house: House) -> None:
    house.write(QUICK)
    precious = house.directory / "echosched.db"
    precious.write_bytes(b"my only copy of the novel, " * 50)
    before = precious.read_bytes()
    refused = house.run("start")
    assert refused.returncode == 1
    assert "echosched.db" in refused.stderr
    assert precious.read_bytes() == before
    assert house.run("status").returncode == 3


def test_a_newer_schema_is_refused(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    house.ok("stop")
    with sqlite3.connect(house.directory / "echosched.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    refused = house.run("start")
    assert refused.returncode == 1
    assert "999" in refused.stderr or "newer" in refused.stderr


def test_an_unwritable_directory_is_one_line(house: House) -> None:
    config = house.write(QUICK)
    locked = house.directory / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # whom no mode keeps out
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(locked)], check=True)
    else:
        locked.chmod(0o500)
    try:
        refused = house.run("start", "--db", str(locked / "x.db"), "--config", str(config))
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(locked)], check=True)
    assert refused.returncode in (1, 4)
    assert str(locked) in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_socket_path_that_is_too_long_is_one_line(house: House) -> None:
    house.write(QUICK)
    refused = house.run("start", "--socket", str(house.directory / ("s" * 120)))
    assert refused.returncode == 6
    assert "107" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_two_daemons_never_share_a_database(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    refused = house.run("start", "--pidfile", str(house.directory / "other.pid"))
    assert refused.returncode == 1
    assert "in use" in refused.stderr


def test_unknown_words_get_one_line_with_the_nearest_match(house: House) -> None:
    wrong = house.run("statsu")
    assert wrong.returncode == 2
    assert "did you mean status?" in wrong.stderr.splitlines()[0]
    wrong = house.run("start", "--forground")
    assert wrong.returncode == 2
    assert "did you mean --foreground?" in wrong.stderr.splitlines()[0]


# ── the foreground ────────────────────────────────────────────────────────────────────────────


def test_the_foreground_shows_the_journal_and_obeys_the_same_verbs(house: House) -> None:
    house.write(QUICK)
    child = house.popen("start", "--foreground", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    eventually(lambda: house.status["health"] == "ok")
    assert house.status["mode"] == "foreground"
    assert house.status["pid"] == child.pid
    house.ok("run", "hello", "--wait")
    house.ok("stop")
    assert child.wait(30) == 0
    assert child.stdout is not None
    shown = [json.loads(line)["event"] for line in child.stdout.read().splitlines()]
    assert {"ready", "tick", "run_end", "shutdown"} <= set(shown)


def test_a_worker_without_a_supervisor_tells_its_shutdown_too(house: House) -> None:
    house.write(QUICK)
    child = house.popen(
        "start", "--foreground", "--no-supervise", stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    eventually(lambda: house.status["health"] == "ok")
    house.ok("stop")
    assert child.wait(30) == 0
    [event] = house.events("shutdown")
    assert (event["signal"], event["pid"]) == ("SIGTERM", child.pid)


def test_a_clean_stop_tells_that_its_pidfile_was_removed(house: House) -> None:
    house.write(QUICK)
    house.ok("start")
    pid = house.pid
    assert stat.S_IMODE((house.directory / "echosched.db.lock").stat().st_mode) == 0o640
    house.ok("stop")
    assert [event["removed_pid"] for event in house.events("cleanup")] == [pid]


@pytest.mark.parametrize("variable", ["REPL_ID", "REPLIT_DEPLOYMENT", "SUPERVISOR_ENABLED"])
def test_hosts_that_end_detached_processes_get_the_foreground(house: House, variable: str) -> None:
    house.write(QUICK)
    house.environ[variable] = "1"
    child = house.popen("start", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    eventually(lambda: house.status["health"] == "ok")
    assert house.status["mode"] == "foreground"
    child.terminate()
    assert child.wait(30) == 0
    assert child.stderr is not None
    assert b"staying in the foreground" in child.stderr.read()


def test_start_in_a_pipeline_returns(house: House) -> None:
    house.write(QUICK)
    child = house.popen("start", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    assert child.stdout is not None
    assert b"started" in child.stdout.read()  # ends only when nobody holds the pipe's other end
    assert child.wait(30) == 0


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────


class Platform:
    """The AI-automation platform: counts calls by path and key; misbehaves on request."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str | None]] = []
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                platform.calls.append((self.command, self.path, self.headers.get("X-Dash-Key")))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"ok": true}')

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform = Platform()
    yield platform
    platform.close()


def test_the_echopilot_example_calls_the_platform_with_its_key(house: House, platform: Platform) -> None:
    example = house.directory.parent / "echopilot.toml"
    source = os.path.join(os.path.dirname(__file__), "../../etc/examples/echopilot.toml")
    with open(source) as file:
        house.write(file.read())
    house.environ |= {"ECHO_BASE_URL": platform.url, "DASHBOARD_KEY": "s3cret-key-value"}
    house.ok("start")
    wanted = {"/api/exec/brief", "/api/self-heal"}
    eventually(lambda: wanted <= {path for _, path, _ in platform.calls})
    house.ok("run", "report", "--wait")
    assert ("POST", "/api/exec/report", "s3cret-key-value") in platform.calls
    assert {key for _, _, key in platform.calls} == {"s3cret-key-value"}
    assert not example.exists()
    house.run("jobs")
    shown = house.run("jobs", "--json").stdout + house.run("status").stdout + house.run("history").stdout
    assert "s3cret" not in shown
    leaks = [path.name for path in house.files() if b"s3cret" in path.read_bytes()]
    assert leaks == []


def test_a_server_that_hangs_or_talks_garbage_delays_nobody(house: House) -> None:
    mute = socket.create_server(("127.0.0.1", 0))
    garbage = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        while True:
            try:
                connection, _ = garbage.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"\x00\x01garbage\r\n\r\n")

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        house.write(
            f"""
            [daemon]
            tick = "1s"
            [job.mute]
            timeout = "4s"
            http = {{ url = "http://127.0.0.1:{mute.getsockname()[1]}/" }}
            [job.garbage]
            timeout = "20s"
            http = {{ url = "http://127.0.0.1:{garbage.getsockname()[1]}/" }}
            [job.nobody]
            http = {{ url = "http://nosuchhost.invalid/" }}
            [job.tock]
            schedule = "every 1s"
            command = "true"
            """
        )
        house.ok("start")
        for job in ("mute", "garbage", "nobody"):
            house.ok("run", job)
        mute_run = house.last("mute")
        assert mute_run["state"] == "timed_out"
        assert house.last("garbage")["state"] == "failed"
        assert house.last("nobody")["state"] == "failed"
        assert house.last("nobody")["error"]
        while_it_hung = [
            row
            for row in house.history("tock", "--state", "succeeded")
            if mute_run["started_at"] < row["started_at"] < mute_run["ended_at"]
        ]
        assert while_it_hung
        assert max(row["lag_seconds"] for row in while_it_hung) < 4
    finally:
        garbage.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        thread.join()
        garbage.close()
        mute.close()

"""``doctor`` on real hosts, directories and daemons: what it finds, what it advises, what it answers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.daemon import probe

if TYPE_CHECKING:
    from tests.system.conftest import House

AS_ROOT = os.geteuid() == 0


def examine(house: House, **options: Any) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = house.run("doctor", "--json", **options)
    document = json.loads(done.stdout)
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in document["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
        assert finding["state"] in ("ok", "warn", "bad")
        assert (finding["cure"] is None) == (finding["state"] == "ok"), finding
    assert document["ok"] == (done.returncode == 0)
    return done.returncode, by_check


@pytest.fixture
def home(house: House) -> House:
    house.directory.chmod(0o750)
    house.write('[job.a]\nschedule = "0 8 * * *"\ncommand = "true"\n').chmod(0o640)
    return house


def test_a_good_host_passes_and_leaves_nothing(home: House) -> None:
    before = sorted(home.directory.iterdir())
    code, found = examine(home)
    assert code == 0, found
    for check in (
        "detaching",
        "locks",
        "time zones",
        "descriptors",
        "processes",
        "timerfd",
        "directories",
        "disk space",
    ):
        assert found[check][0]["state"] == "ok", found[check]
    assert found["daemon"][0]["finding"] == "not running"
    assert sorted(home.directory.iterdir()) == before


def test_people_get_lines_with_cures(home: House) -> None:
    home.directory.chmod(0o777)
    done = home.run("doctor")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    bad = next(i for i, line in enumerate(lines) if line.startswith("bad  directories"))
    assert f"→ chmod o-w {home.directory}" in lines[bad + 1]
    assert lines[-1].endswith("to cure")


def test_a_running_daemon_is_looked_at_too(home: House) -> None:
    home.ok("start")
    home.outcome("a")
    code, found = examine(home)
    assert code == 0, found
    assert "loop makes progress" in found["daemon"][0]["finding"]
    assert found["database"][0]["state"] == "ok"
    assert found["orphans"][0]["finding"] == "no process without its run"
    assert found["files"][0]["state"] == "ok"


def test_a_bad_configuration_is_told_with_its_problems(home: House) -> None:
    home.write('[job.a]\nschedule = "61 * * * *"\n')
    code, found = examine(home)
    assert code == 1
    assert any("minute must be" in finding["finding"] for finding in found["configuration"])


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"REPL_ID": "x"}, "Replit"),
        ({"SUPERVISOR_ENABLED": "1"}, "supervisord"),
        ({"NOTIFY_SOCKET": "/x"}, "service manager"),
    ],
)
def test_hosts_that_end_detached_processes_are_named(home: House, environ: dict[str, str], said: str) -> None:
    home.environ |= environ
    _, found = examine(home)
    assert found["detaching"][0]["state"] == "warn"
    assert said in found["detaching"][0]["finding"]


def test_limits_are_measured_against_the_configuration(home: House) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    code, found = examine(home, preexec_fn=few)
    assert code == 1
    assert "a limit of 128, but 64 runs" in found["descriptors"][0]["finding"]
    home.write('[daemon]\nmax_concurrent = 4\n[job.a]\ncommand = "true"\nschedule = "@daily"\n')
    _, found = examine(home, preexec_fn=few)
    assert found["descriptors"][0]["state"] == "ok"


def test_rights_are_judged(home: House) -> None:
    home.ok("start")
    home.ok("stop")
    key = home.directory / "web.key"
    key.write_text("k\n")
    key.chmod(0o644)
    (home.directory / "echosched.db").chmod(0o666)
    (home.directory / "echosched.out").unlink()
    (home.directory / "echosched.out").symlink_to("/dev/null")
    code, found = examine(home)
    assert code == 1
    by_file = {finding["finding"].split(":")[0].rpartition("/")[2]: finding for finding in found["files"]}
    assert {name: finding["state"] for name, finding in by_file.items()} == {
        "web.key": "bad",
        "echosched.db": "bad",
        "echosched.out": "bad",
    }
    assert by_file["web.key"]["cure"] == f"chmod 600 {key}"


def test_a_configuration_that_everybody_may_change_or_read_is_told(home: House) -> None:
    path = home.write('[job.a]\ncommand = "true"\nschedule = "@daily"\n[job.a.env]\nAPI_TOKEN = "abc"\n')
    path.chmod(0o644)
    _, found = examine(home)
    assert [finding["state"] for finding in found["config rights"]] == ["warn"]
    assert "token" in found["config rights"][0]["finding"]
    assert "abc" not in json.dumps(found)
    path.write_text(path.read_text().replace('"abc"', '"${env:API_TOKEN}"'))
    _, found = examine(home)
    assert found["config rights"][0]["state"] == "ok"
    path.chmod(0o666)
    code, found = examine(home)
    assert code == 1
    assert "everybody may" in found["config rights"][0]["finding"]


def test_what_a_killed_daemon_left_is_found(home: House) -> None:
    home.write('[job.long]\ncommand = "sleep 300"\n').chmod(0o640)
    home.ok("start")
    home.ok("run", "long")
    supervisor, worker = home.pid, home.worker_pid
    pid = next(event["pid"] for event in iter_events(home, "run_start"))
    for process in (supervisor, worker):
        os.kill(process, 9)
    wait_dead(supervisor, worker)
    _, found = examine(home)
    assert f"processes of an earlier daemon run on: {pid}" in found["orphans"][0]["finding"]
    os.kill(pid, 9)
    wait_dead(pid)
    _, found = examine(home)
    assert "1 run without an outcome" in found["orphans"][0]["finding"]
    assert found["daemon"][0]["state"] == "warn"


def iter_events(house: House, name: str) -> list[dict[str, Any]]:
    import time

    deadline = time.monotonic() + 60
    while not (found := house.events(name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def wait_dead(*pids: int) -> None:
    import time

    from echosched.daemon import proc

    deadline = time.monotonic() + 60
    while any(proc.is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_damaged_database_is_found(home: House) -> None:
    home.ok("start")
    home.ok("stop")
    (home.directory / "echosched.db").write_bytes(b"not a database at all, but long enough " * 200)
    code, found = examine(home)
    assert code == 1
    assert found["database"][0]["state"] == "bad"


@pytest.mark.root
@pytest.mark.skipif(not AS_ROOT, reason="mounts and other users need root")
def test_small_and_read_only_disks_are_found(home: House, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    try:
        code, found = examine_at(home, "--db", f"{disk}/x.db")
        assert code == 1
        assert [f["state"] for f in found["disk space"] if str(disk) in f["finding"]] == ["bad"]
        assert any("(tmpfs)" in f["finding"] for f in found["locks"])
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, found = examine_at(home, "--db", f"{disk}/x.db")
        assert any("read-only" in f["finding"] for f in found["disk space"])
        assert any("no lock could be tried" in f["finding"] for f in found["locks"])
    finally:
        subprocess.run(["umount", disk], check=True)


def examine_at(house: House, *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = house.run("doctor", "--json", *words)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


# ── the probes themselves ─────────────────────────────────────────────────────────────────────


def test_a_detached_process_that_is_killed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(writing: int, seconds: float) -> None:
        os.kill(os.getpid(), 9)

    monkeypatch.setattr(probe, "_be_detached", killed)
    seen = probe.detaching(0.2)
    assert not seen.alive


def test_a_detached_process_that_lives_tells_its_new_parent() -> None:
    seen = probe.detaching(0.1)
    assert seen.alive
    assert seen.parent != os.getpid()


def test_a_lock_that_keeps_nobody_out_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    assert probe.lock_excludes(str(tmp_path))
    # Filesystems without locks answer every request with success.
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    assert not probe.lock_excludes(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_filesystems_are_named_by_where_they_are_mounted() -> None:
    assert probe.filesystem("/proc") == "proc"
    assert probe.filesystem(str(Path(sys.executable).parent)) not in ("", "proc")
    assert probe.filesystem("/no/such/place") == ""


def test_the_kernel_is_asked_by_doing() -> None:
    assert probe.pidfd()
    assert probe.timerfd()
    assert probe.subreaper()
    assert probe.parent_death_signal()
    assert probe.processes_visible()
    state = probe.discipline()
    assert state is None or state.error_seconds >= 0

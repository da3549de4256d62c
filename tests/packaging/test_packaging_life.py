"""The life of an installed EchoSched, on a machine with systemd and on one with SysV init.

Each machine is booted once; the tests below happen to it in this order, from the installation to the purge.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lab
import pytest

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.root,
    pytest.mark.timeout(1800),
]
on_both = pytest.mark.parametrize("box", ["systemd", "sysv"], indirect=True)
on_systemd = pytest.mark.parametrize("box", ["systemd"], indirect=True)
on_sysv = pytest.mark.parametrize("box", ["sysv"], indirect=True)
CONFIG = "/etc/echosched/echosched.toml"
STATE = "/var/lib/echosched"


def begin(box: Any, name: str, command: str) -> None:
    """Have a job under way: begun by hand, since a slot could pass before a slow machine has read of it."""
    box.job(name, command=command)
    box.run(f"echoschedd run {name}")
    box.until(lambda: any(r["state"] == "running" for r in box.history(name)), what="a running job")


@on_both
def test_the_installation_starts_the_daemon_as_its_own_user(box: Any) -> None:
    status = box.wait_ok()
    assert status["running"] is True
    assert box.out(f"ps -o user= -p {status['pid']},{status['worker_pid']} | sort -u") == "echosched"
    assert status["paths"]["db"] == f"{STATE}/echosched.db"
    assert box.service("status") == 0


@on_both
def test_nobody_else_can_read_the_configuration_or_the_history(box: Any) -> None:
    listed = box.out(
        f"stat -c '%n %a %U:%G' /etc/echosched {CONFIG} {STATE} /var/log/echosched /run/echosched"
    )
    assert listed.splitlines() == [
        "/etc/echosched 750 root:echosched",
        f"{CONFIG} 640 root:echosched",
        f"{STATE} 750 echosched:echosched",
        "/var/log/echosched 750 echosched:echosched",
        "/run/echosched 750 echosched:echosched",
    ]


@on_both
def test_a_job_fires_as_that_user(box: Any) -> None:
    box.job("beat", schedule="every 1s", command="id -un")
    box.until(lambda: sum(r["state"] == "succeeded" for r in box.history("beat")) >= 2, what="two runs")
    run = next(r["run"] for r in box.history("beat") if r["state"] == "succeeded")
    assert box.out(f"echoschedd output {run}") == "echosched"
    box.no_jobs()


@on_both
def test_time_zones_are_known_on_a_minimal_system(box: Any) -> None:
    box.job("berlin", schedule="Mon..Fri 02:30 Europe/Berlin", command="true")
    assert re.search(r"T0[01]:30:00", box.out("echoschedd next berlin --json -n 1"))
    box.no_jobs()


@on_both
def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(box: Any) -> None:
    pid = box.status()["pid"]
    box.machine.write(
        "/etc/echosched/jobs.d/bad.toml", '[job.bad]\nschedule = "61 * * * *"\ncommand = "true"\n'
    )
    assert box.service("reload") != 0
    refused = box.run("echoschedd reload", check=False)
    assert refused.code == 6
    assert "61" in refused.err
    assert box.status()["pid"] == pid
    box.run("rm /etc/echosched/jobs.d/bad.toml")
    assert box.service("reload") == 0
    assert box.status()["pid"] == pid


@on_both
def test_service_stops_starts_and_restarts_it(box: Any) -> None:
    assert box.service("stop") == 0
    assert box.status()["running"] is False
    assert box.service("status") == 3
    assert box.code("echoschedd status") == 3
    assert box.service("stop") == 0
    assert box.service("start") == 0
    first = box.wait_ok()["pid"]
    assert box.service("start") == 0
    assert box.status()["pid"] == first
    assert box.service("restart") == 0
    assert box.wait_ok()["pid"] != first


@on_both
def test_echoschedd_itself_means_the_same_daemon(box: Any) -> None:
    handed = "systemctl" if box.kind == "systemd" else ""
    stopped = box.run("echoschedd stop")
    assert handed in stopped.err
    assert box.service("status") == 3
    started = box.run("echoschedd start")
    assert handed in started.err
    assert box.service("status") == 0
    first = box.wait_ok()["pid"]
    assert box.out(f"ps -o user= -p {first}") == "echosched"
    box.run("echoschedd restart")
    assert box.wait_ok()["pid"] != first
    assert box.service("status") == 0


@on_both
def test_a_bad_configuration_is_told_and_stops_no_running_daemon(box: Any) -> None:
    pid = box.status()["pid"]
    box.machine.write("/etc/echosched/jobs.d/bad.toml", "[job.bad]\n")
    assert box.code("echoschedd check") == 78
    assert box.code("echoschedd restart") == 6
    assert box.status()["pid"] == pid
    box.run("rm /etc/echosched/jobs.d/bad.toml")


@on_sysv
def test_the_init_script_keeps_to_the_lsb(box: Any) -> None:
    script = "/etc/init.d/echosched"
    assert box.code(script) == 2
    assert box.code(f"{script} frobnicate") == 2
    assert box.code(f"{script} start now") == 2
    for verb in ("start", "stop", "restart", "try-restart", "reload", "force-reload"):
        assert box.code(f"setpriv --reuid=nobody --clear-groups {script} {verb}") == 4, verb
    first = box.wait_ok()["pid"]
    assert box.code(f"{script} try-restart") == 0
    assert box.wait_ok()["pid"] != first
    for verb in ("reload", "force-reload", "status", "start"):
        assert box.code(f"{script} {verb}") == 0, verb
    assert box.code(f"{script} stop") == 0
    codes = {
        verb: box.code(f"{script} {verb}")
        for verb in ("status", "stop", "reload", "force-reload", "try-restart")
    }
    assert codes == {"status": 3, "stop": 0, "reload": 7, "force-reload": 7, "try-restart": 0}
    assert box.status()["running"] is False
    box.machine.write("/etc/echosched/jobs.d/bad.toml", "[job.bad]\n")
    assert box.code(f"{script} start") == 6
    assert box.code(f"{script} restart") == 6
    box.run("rm /etc/echosched/jobs.d/bad.toml; mv /usr/bin/echoschedd /usr/bin/echoschedd.away")
    try:
        assert box.code(f"{script} start") == 5
        assert box.code(f"{script} status") == 4
    finally:
        box.run("mv /usr/bin/echoschedd.away /usr/bin/echoschedd")
    assert box.code("invoke-rc.d echosched start") == 0
    box.wait_ok()


@on_sysv
def test_init_itself_can_keep_the_daemon_running(box: Any) -> None:
    readme = (lab.SOURCE / "debian/echosched.README.Debian").read_text()
    line = next(line.strip() for line in readme.splitlines() if ":respawn:" in line)
    box.run("service echosched stop")
    box.run(f"cp /etc/inittab /root/inittab; echo {shlex.quote(line)} >> /etc/inittab; telinit q")
    before = box.wait_ok()
    box.run(f"kill -9 {before['pid']}")
    box.until(lambda: box.status()["pid"] not in (None, before["pid"]), what="a new daemon")
    assert box.wait_ok()["mode"] == "foreground"
    box.run("mv /root/inittab /etc/inittab; telinit q")
    box.until(lambda: not box.status()["running"], what="its end")
    assert box.service("start") == 0
    box.wait_ok()


@on_both
def test_a_killed_worker_is_replaced_under_its_jobs(box: Any) -> None:
    begin(box, "long", f"echo begun; until test -e {STATE}/go; do sleep 0.2; done; echo ended; exit 7")
    before = box.status()
    box.run(f"kill -9 {before['worker_pid']}")
    box.until(lambda: box.status()["worker_pid"] not in (None, before["worker_pid"]), what="a new worker")
    box.run(f"touch {STATE}/go")
    run = box.outcome("long")
    assert (run["state"], run["exit_code"]) == ("failed", 7)
    assert box.out(f"echoschedd output {run['run']}").split() == ["begun", "ended"]
    after = box.wait_ok()
    assert after["pid"] == before["pid"]
    assert after["restarts"] == before["restarts"] + 1
    box.run(f"rm {STATE}/go")
    box.no_jobs()


@on_both
def test_a_killed_daemon_comes_back_and_keeps_its_jobs(box: Any) -> None:
    begin(box, "kept", f"until test -e {STATE}/go; do sleep 0.2; done; echo done > {STATE}/kept")
    before = box.status()
    box.run(f"kill -9 {before['pid']}")
    if box.kind == "sysv":  # nobody restarts it there; the next start finds the job
        box.until(lambda: not box.alive(before["worker_pid"]), what="the worker's end")
        assert box.service("status") == 1
        assert box.service("start") == 0
    box.until(lambda: box.status()["pid"] not in (None, before["pid"]), what="a new daemon")
    assert box.wait_ok()["last_exit"]["how"] == "signal 9"
    active = [r for r in box.history("kept") if r["state"] == "running"]
    assert len(active) == 1, "the new daemon watches the job of the old one"
    box.run(f"touch {STATE}/go")
    run = box.outcome("kept")
    assert box.out(f"cat {STATE}/kept") == "done"
    assert run["state"] in ("succeeded", "abandoned")  # its exit code can be learned on new kernels only
    assert len(box.history("kept")) == 1
    box.run(f"rm {STATE}/kept {STATE}/go")
    box.no_jobs()


@on_both
def test_a_hanging_worker_is_replaced(box: Any) -> None:
    box.run(f"sed -i 's/^.daemon.$/[daemon]\\nwatchdog = \"4s\"/' {CONFIG}; echoschedd reload")
    before = box.wait_ok()
    box.run(f"kill -STOP {before['worker_pid']}")
    box.until(
        lambda: box.status()["worker_pid"] not in (None, before["worker_pid"]),
        what="a new worker",
    )
    after = box.wait_ok()
    assert after["pid"] == before["pid"]
    assert not box.alive(before["worker_pid"])
    assert '"event":"watchdog"' in box.out(
        "grep -h watchdog /var/log/echosched/echosched.log | tail -n 1"
    ).replace(" ", "")
    box.run(f"sed -i '/^watchdog/d' {CONFIG}; echoschedd reload")


@on_systemd
def test_a_hanging_daemon_is_replaced_by_systemd(box: Any) -> None:
    box.machine.write("/etc/systemd/system/echosched.service.d/quick.conf", "[Service]\nWatchdogSec=4s\n")
    box.run("systemctl daemon-reload; systemctl restart echosched")
    before = box.wait_ok()
    box.run(f"kill -STOP {before['pid']}")
    box.until(lambda: box.status()["pid"] not in (None, before["pid"]), what="a new daemon")
    box.wait_ok()
    assert "watchdog" in box.out("journalctl -u echosched --no-pager | grep -i watchdog | tail -n 3").lower()
    box.run(
        "rm -r /etc/systemd/system/echosched.service.d; systemctl daemon-reload; systemctl restart echosched"
    )
    box.wait_ok()


@on_both
def test_logrotate_has_the_daemon_reopen_its_files(box: Any) -> None:
    log = "/var/log/echosched/echosched.log"
    before = box.out(f"stat -c %i {log}")
    done = box.run("logrotate --force /etc/logrotate.d/echosched")
    assert done.err == ""
    assert box.out(f"stat -c %i {log}.1") == before
    box.job("after-rotation", schedule="every 1s", command="true")
    box.until(f"grep -q after-rotation {log}", what="the journal in its new file")
    assert box.out(f"stat -c '%a %U' {log}") == "640 echosched"
    box.no_jobs()


@on_both
def test_logrotate_signals_nobody_when_the_daemon_is_down(box: Any) -> None:
    box.service("stop")
    box.run(
        "mkdir -p /run/echosched; sleep 300 >/dev/null 2>&1 & echo $! > /run/echosched/echosched.pid;"
        " echo x >> /var/log/echosched/echosched.log"
    )
    stranger = box.out("cat /run/echosched/echosched.pid")
    box.run("logrotate --force /etc/logrotate.d/echosched")
    assert box.alive(int(stranger))
    box.run(f"kill {stranger}; chown -R echosched: /run/echosched")
    assert box.service("start") == 0
    box.wait_ok()


@on_both
def test_an_upgrade_keeps_running_jobs_and_the_configuration(box: Any, newer_debs: list[Path]) -> None:
    box.run(f"echo '# kept' >> {CONFIG}")
    begin(box, "through", f"echo begun; until test -e {STATE}/go; do sleep 0.2; done; echo ended; exit 3")
    before = box.wait_ok()
    box.install(newer_debs)
    after = box.wait_ok()
    assert after["pid"] == before["pid"], "the daemon replaced itself instead of stopping"
    assert after["worker_pid"] != before["worker_pid"]
    assert after["version"] == "0.1.0+next"
    assert [r["state"] for r in box.history("through")] == ["running"]
    box.run(f"touch {STATE}/go")
    run = box.outcome("through")
    assert (run["state"], run["exit_code"]) == ("failed", 3)
    assert box.out(f"echoschedd output {run['run']}").split() == ["begun", "ended"]
    assert box.out(f"tail -n 1 {CONFIG}") == "# kept"
    box.no_jobs()


@on_both
def test_a_reboot_catches_up_once(box: Any) -> None:
    due = datetime.now(UTC) + timedelta(seconds=12)
    box.job("missed", schedule=due.strftime("at %Y-%m-%dT%H:%M:%SZ"), command=f"echo run >> {STATE}/missed")
    box.machine.power_off()
    assert datetime.now(UTC) < due, "the machine must be down when the slot comes due"
    # What came due while no daemon ran was missed, were it by a second.
    box.rest((due - datetime.now(UTC)).total_seconds() + 1)
    box.machine.boot()
    box.wait_ok()
    run = box.outcome("missed")
    assert (run["state"], run["trigger"]) == ("succeeded", "catchup")
    box.rest(1)
    assert box.out(f"cat {STATE}/missed") == "run"
    assert len(box.history("missed")) == 1
    assert json.loads(box.out("echoschedd status --json"))["last_exit"]["how"] == "clean"
    box.run(f"rm {STATE}/missed")
    box.no_jobs()


@on_both
def test_removal_stops_it_and_keeps_configuration_and_history(box: Any) -> None:
    # As the watchdog above: the default grace, ten seconds for the job to end by itself, says nothing of the package.
    box.run(f"sed -i 's/^.daemon.$/[daemon]\\ngrace = \"1s\"/' {CONFIG}")
    box.job("orphan", schedule="every 1s", command="exec sleep 1000", overlap="skip")
    box.until("pgrep -f '[s]leep 1000'", what="a running job")
    pid = box.status()["pid"]
    box.run("apt-get remove -y echosched python3-echosched", timeout=600)
    assert not box.alive(pid)
    assert box.code("pgrep -f '[s]leep 1000'") == 1, "its jobs went with it"
    assert box.code(f"test -e {CONFIG} && test -e {STATE}/echosched.db && test -e /etc/init.d/echosched") == 0
    assert box.code("command -v echoschedd") != 0


@on_both
def test_purge_leaves_nothing(box: Any) -> None:
    box.run("apt-get purge -y echosched python3-echosched", timeout=600)
    left = box.out(
        "find / -xdev -iname '*echosched*' -not -path '/proc/*' -not -path '/var/lib/apt/*' 2>/dev/null || true"
    )
    left += box.out(
        "find /run /etc/rc*.d -iname '*echosched*'; getent passwd echosched || true; getent group echosched || true"
    )
    assert [line for line in left.splitlines() if not re.search(r"/var/log/(apt|dpkg|journal)", line)] == []
    assert box.code("ps ax -o args= | grep -v grep | grep -q echosched") == 1

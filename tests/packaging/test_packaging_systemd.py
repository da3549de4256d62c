"""What only systemd can show: units that verify, the hardened drop-in, the dashboard's unit, a personal instance."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import lab
import pytest

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.root,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("box", ["systemd"], indirect=True),
]
UNITS = "/lib/systemd/system/echosched.service /lib/systemd/system/echosched-web.service"
DROP_IN = "/etc/systemd/system/echosched.service.d/hardened.conf"


def test_systemd_has_nothing_to_say_about_the_units(box: Any) -> None:
    done = box.run(f"systemd-analyze verify --man=no {UNITS}")
    assert (done.out, done.err) == ("", "")
    user = box.run(
        "XDG_RUNTIME_DIR=/run systemd-analyze --user verify --man=no /usr/lib/systemd/user/echosched.service"
    )
    assert (user.out, user.err) == ("", "")


def test_the_manual_pages_that_the_units_name_exist(box: Any) -> None:
    named = set(re.findall(r"man:([\w.-]+)\((\d)\)", box.out(f"cat {UNITS}")))
    assert named
    for page, section in named:
        assert (lab.SOURCE / "man" / f"{page}.{section}").exists()


def test_ordinary_jobs_run_in_the_shipped_unit(box: Any) -> None:
    box.wait_ok()
    connect = "from socket import *; a = create_server((str(), 0)); create_connection(a.getsockname())"
    jobs = {
        "network": f"python3 -c '{connect}'",
        "ionice": "ionice -c 3 nice -n 5 true",
        "chown": "f=$(mktemp) && chown echosched:echosched $f && rm $f",
        "jit": 'python3 -c "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ|mmap.PROT_WRITE|mmap.PROT_EXEC)"',
        "sudo": "sudo -n id -u",
        "tmp": "echo x > /tmp/echosched-job && rm /tmp/echosched-job",
    }
    box.machine.write("/etc/sudoers.d/test", "echosched ALL=(root) NOPASSWD: /usr/bin/id\n", 0o440)
    for name, command in jobs.items():
        box.machine.write(
            f"/etc/echosched/jobs.d/{name}.toml", f"[job.{name}]\ncommand = {json.dumps(command)}\n"
        )
    box.run("echoschedd reload")
    failed = {
        name: done for name in jobs if (done := box.run(f"echoschedd run --wait {name}", check=False)).code
    }
    assert failed == {}
    box.run("rm /etc/sudoers.d/test")
    box.no_jobs()


def test_nothing_escapes_a_time_out_in_the_shipped_unit(box: Any) -> None:
    # Daemonized twice, in a session of its own, without the mark: only the run's cgroup still knows it.
    escape = "sleep 1; (setsid sh -c '(env -i setsid sleep 7777 &) & sleep 0.1' &); while :; do sleep 1; done"
    box.machine.write(
        "/etc/echosched/jobs.d/escape.toml",
        f'[job.escape]\ncommand = {json.dumps(escape)}\ntimeout = "3s"\nkill_after = "1s"\n',
    )
    box.run("echoschedd reload")
    assert box.run("echoschedd run --wait escape", check=False).code == 1
    assert box.out("echoschedd history escape --json | grep -o timed_out").strip() == "timed_out"
    assert box.run("pgrep -f '[s]leep 7777'", check=False).out == ""
    box.no_jobs()


def test_a_job_that_runs_out_of_memory_does_not_end_the_unit(box: Any) -> None:
    assert box.out("systemctl show -p OOMPolicy --value echosched") == "continue"


def test_a_bad_configuration_is_not_tried_again(box: Any) -> None:
    box.machine.write("/etc/echosched/jobs.d/bad.toml", "[job.bad]\n")
    assert box.code("systemctl restart echosched") != 0
    box.rest(3)
    assert box.out("systemctl is-active echosched || true") == "failed"
    assert box.out("systemctl show -p ExecMainStatus --value echosched") == "6"
    assert box.out("systemctl show -p NRestarts --value echosched") == "0"
    box.run("rm /etc/echosched/jobs.d/bad.toml; systemctl start echosched")
    box.wait_ok()


def test_the_hardened_drop_in_scores_two_or_less_and_jobs_still_fire(box: Any) -> None:
    box.run(f"mkdir -p {DROP_IN.rpartition('/')[0]}")
    box.machine.write(DROP_IN, (lab.SOURCE / "etc/examples/hardened.conf").read_text())
    box.run("systemctl daemon-reload")
    assert box.run(f"systemd-analyze verify --man=no {UNITS}").err == ""
    report = box.run(f"systemd-analyze security --offline=true {UNITS.split()[0]}", check=False).out
    score = re.search(r"exposure level for echosched.service: ([\d.]+)", report)
    assert score is not None
    assert float(score[1]) <= 2.0
    box.run("systemctl restart echosched")
    assert box.wait_ok()["worker_pid"] is not None
    box.job("beat", schedule="every 1s", command="date")
    box.until(lambda: any(r["state"] == "succeeded" for r in box.history("beat")), what="a run")
    box.job("home", command="ls /home /root")
    assert box.code("echoschedd run --wait home") == 1
    box.job("write", command="touch /srv/x /var/tmp/../x")
    assert box.code("echoschedd run --wait write") == 1
    box.job("setuid", command="sudo -n true")
    assert box.code("echoschedd run --wait setuid") == 1
    box.run(f"rm -r {DROP_IN.rpartition('/')[0]}; systemctl daemon-reload; systemctl restart echosched")
    box.no_jobs()


def test_the_dashboard_has_a_unit_of_its_own_that_is_off_at_first(box: Any) -> None:
    assert box.out("systemctl is-enabled echosched-web || true") == "disabled"
    assert box.out("systemctl is-active echosched-web || true") == "inactive"
    box.run("systemctl start echosched-web")

    def ask(verb: str, method: str) -> Any:
        code = (
            f"import urllib.request as u; a = 'http://127.0.0.1:5000/api/automations/{verb}';"
            f" q = u.Request(a, method='{method}',"
            " headers={'X-Dash-Key': open('/var/lib/echosched/web.key').read().strip()});"
            "print(u.urlopen(q).read().decode())"
        )
        done = box.run(f'python3 -c "{code}"', check=False)
        return json.loads(done.out) if done.code == 0 else {"ok": False, "said": done.err}

    box.until(lambda: ask("status", "GET")["ok"], what="the web server")
    assert ask("status", "GET")["data"]["pid"] == box.status()["pid"]
    assert ask("stop", "POST")["ok"] is True
    assert box.out("systemctl is-active echosched || true") == "inactive"
    started = ask("start", "POST")
    assert started["ok"] is True, started
    assert box.out("systemctl is-active echosched") == "active"
    assert box.out("systemctl show -p MainPID --value echosched") == str(started["pid"])
    restarted = ask("restart", "POST")
    assert box.out("systemctl show -p MainPID --value echosched") == str(restarted["pid"])
    assert restarted["pid"] != started["pid"]
    assert box.out("ps -o user= -C echoschedd | sort -u") == "echosched"
    serving = box.out("systemctl show -p MainPID --value echosched-web")
    assert f"running (pid {serving}), ok" in box.out("echoschedd service status web")
    box.run("systemctl stop echosched-web")
    assert "not running, last exit clean" in box.out("echoschedd service status web || true")
    assert box.wait_ok()["running"] is True


def test_a_personal_instance_runs_as_a_unit_of_the_user(box: Any) -> None:
    box.run("useradd --create-home anna; loginctl enable-linger anna")
    uid = box.out("id -u anna")
    box.until(f"test -S /run/user/{uid}/bus", what="the user's manager")

    def anna(script: str, *, check: bool = True) -> Any:
        who = "setpriv --reuid=anna --regid=anna --init-groups env HOME=/home/anna USER=anna"
        return box.run(f"{who} XDG_RUNTIME_DIR=/run/user/{uid} sh -c {shlex.quote(script)}", check=check)

    box.machine.write(
        "/home/anna/.config/echosched/echosched.toml",
        '[job.mine]\nschedule = "every 1s"\ncommand = "id -un"\n',
    )
    box.run("chown -R anna: /home/anna")
    anna("systemctl --user start echosched")
    box.until(lambda: "succeeded" in anna("echoschedd history mine --json", check=False).out, what="a run")
    status = json.loads(anna("echoschedd status --json").out)
    assert status["paths"]["db"].startswith("/home/anna/.local/state/")
    assert status["pid"] != box.status()["pid"]
    anna("systemctl --user reload echosched")
    anna("systemctl --user stop echosched")
    assert anna("echoschedd status", check=False).code == 3
    assert box.status()["running"] is True


def test_the_packages_own_tests_pass(box: Any) -> None:
    directory = lab.SOURCE / "debian/tests"
    for line in re.findall(r"^Tests: (.*)$", (directory / "control").read_text(), re.MULTILINE):
        for name in re.split(r"[,\s]+", line):
            box.machine.write(f"/root/{name}", (directory / name).read_text(), 0o755)
            box.run(f"cd / && /root/{name}", timeout=600)

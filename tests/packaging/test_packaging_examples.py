"""etc/examples: what can run here is run. Containers are namespaces on the build root, with the packages in it."""

from __future__ import annotations

import json
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lab
import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.root, pytest.mark.timeout(1800)]
EXAMPLES = lab.SOURCE / "etc/examples"
BEAT = '[job.beat]\nschedule = "every 1s"\ncommand = "echo fired"\n'


def containerfile(word: str) -> str:
    """Return the argument of an instruction of the Containerfile."""
    text = (EXAMPLES / "Containerfile").read_text().replace("\\\n", " ")
    found = re.search(rf"^{word} (.*)$", text, re.MULTILINE)
    assert found is not None
    return found[1].strip()


HEALTH = containerfile("HEALTHCHECK").partition(" CMD ")[2]


@pytest.fixture(scope="module")
def installed(build_root: lab.Chroot, debs: list[Path]) -> lab.Chroot:
    """The build root with the packages in it, and the directories that the Containerfile makes."""
    target = build_root.place / "debs"
    target.mkdir()
    for deb in debs:
        (target / deb.name).write_bytes(deb.read_bytes())
    # In a root that is not booted no service is started.
    policy = build_root.place / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    build_root.run(
        "dpkg -i /debs/*.deb && install -d -o echosched -g echosched -m 0750 /data && mkdir /config",
        timeout=600,
    )
    return build_root


Start = Callable[..., lab.Container]


@pytest.fixture
def start(installed: lab.Chroot) -> Iterator[Start]:
    """Start the container of the Containerfile with a configuration; end it with the test."""
    started: list[lab.Container] = []
    environment = dict(pair.split("=", 1) for pair in shlex.split(containerfile("ENV")))
    argv = [*json.loads(containerfile("ENTRYPOINT")), *json.loads(containerfile("CMD"))]

    def make(config: str = BEAT, **options: Any) -> lab.Container:
        prepare = f"printf %s {shlex.quote(config)} > config/echosched.toml"
        container = lab.Container(
            installed.place,
            argv,
            user=containerfile("USER"),
            environment=environment,
            prepare=prepare,
            **options,
        )
        started.append(container)
        return container

    yield make
    for container in started:
        container.close()


def healthy(container: lab.Container) -> bool:
    return container.run(HEALTH, check=False).code == 0


def runs(container: lab.Container, job: str) -> list[dict[str, Any]]:
    done = container.run(f"echoschedd history {job} --json", check=False)
    found: list[dict[str, Any]] = json.loads(done.out) if done.code == 0 else []
    return found


def fired(container: lab.Container, job: str = "beat") -> int:
    return sum(run["state"] == "succeeded" for run in runs(container, job))


def test_the_container_is_process_one_not_root_and_healthy(start: Start) -> None:
    container = start()
    container.until(lambda: healthy(container), what="the health check of the Containerfile")
    container.until(lambda: fired(container) > 1, what="two runs")
    status = json.loads(container.run("echoschedd status --json").out)
    assert status["pid"] == 1
    assert status["mode"] == "foreground"
    assert container.run("id -un; touch /etc/x /usr/x 2>&1 || true").out.splitlines()[0] == "echosched"
    assert container.run("touch /etc/x", check=False).code != 0
    assert '"event":"ready"' in container.log.read_text(), "the journal goes to the container's log"


def test_the_container_reaps_what_jobs_leave_behind(start: Start) -> None:
    config = (
        BEAT
        + '[job.litter]\nschedule = "every 1s"\ncommand = "for i in 1 2 3 4 5; do setsid sleep 0.2 & done"\n'
    )
    container = start(config)
    container.until(lambda: fired(container, "litter") >= 3, what="three littering runs")
    zombies = "ps -e -o stat=,ppid=,args= | grep -c '^Z.* 1 '"
    container.until(
        lambda: container.run(zombies, check=False).out.strip() == "0", what="no zombie below process 1"
    )


def test_the_container_ends_cleanly_within_its_grace(start: Start) -> None:
    job = '[job.deaf]\nschedule = "@boot"\ncommand = "trap : TERM; : > /tmp/deaf; while :; do sleep 0.2; done"\n'
    config = '[daemon]\ngrace = "2s"\n' + job + 'kill_after = "1s"\n'
    container = start(config)
    # A job that is noted as running may not have come to its trap yet; nobody would be deaf then.
    container.until(lambda: container.run("test -e /tmp/deaf", check=False).code == 0, what="a deaf job")
    assert [run["state"] for run in runs(container, "deaf")] == ["running"]
    began = time.monotonic()
    assert container.end() == 0
    # 2 s of grace, one from TERM to KILL; the machine may be busy, but not longer than runtimes wait.
    assert 2 < time.monotonic() - began < 25
    assert '"event":"shutdown"' in container.log.read_text()


def test_the_container_works_with_its_standard_input_closed(start: Start) -> None:
    container = start(redirect="<&-")
    container.until(lambda: fired(container) > 0, what="a run")
    assert container.end() == 0


def test_a_bad_configuration_ends_the_container_with_the_reason(start: Start) -> None:
    container = start('[job.bad]\nschedule = "61 * * * *"\ncommand = "true"\n')
    assert container.process.wait(timeout=lab.PATIENCE_SECONDS) == 6
    assert "61" in container.log.read_text()


def test_the_container_goes_on_when_its_volume_is_full(start: Start) -> None:
    config = '[job.beat]\nschedule = "every 1s"\ncommand = "echo x >> /tmp/fired"\n'
    container = start(config, data_size="3m")
    container.until(lambda: healthy(container) and fired(container) > 0, what="a healthy start")
    container.run("cat /dev/zero > /data/filler 2>/dev/null || true")
    before = len(container.run("cat /tmp/fired").out.split())
    container.until(
        lambda: len(container.run("cat /tmp/fired").out.split()) >= before + 5,
        what="jobs that fire on a full disk",
    )
    container.run("rm /data/filler")
    container.until(
        lambda: json.loads(container.run("echoschedd status --json").out)["health"] == "ok",
        what="health ok again",
    )
    count = fired(container)
    container.until(lambda: fired(container) > count, what="recorded runs again")
    assert container.end() == 0


# ── descriptions for container hosts ──────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def documents(build_root: lab.Chroot) -> dict[str, list[dict[str, Any]]]:
    """The YAML examples, read by a real reader."""
    read = "import json,sys,yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
    return {
        name: json.loads(
            build_root.run(
                f"python3 -c {shlex.quote(read)} <<'END'\n{(EXAMPLES / name).read_text()}\nEND"
            ).out
        )
        for name in ("compose.yaml", "kubernetes.yaml")
    }


def test_compose_gives_what_the_containerfile_wants(documents: dict[str, list[dict[str, Any]]]) -> None:
    services = documents["compose.yaml"][0]["services"]
    scheduler = services["scheduler"]
    assert scheduler["command"] == json.loads(containerfile("CMD"))
    assert scheduler["read_only"] is True
    assert "/tmp" in scheduler["tmpfs"]
    assert int(scheduler["stop_grace_period"].rstrip("s")) >= 10 + 5 + 10
    mounts = {volume.split(":")[1] for volume in scheduler["volumes"]}
    assert mounts == {"/config", "/data"}
    assert mounts == {volume.split(":")[1] for volume in services["web"]["volumes"]}


def test_kubernetes_gives_what_the_containerfile_wants(documents: dict[str, list[dict[str, Any]]]) -> None:
    deployment = next(d for d in documents["kubernetes.yaml"] if d["kind"] == "Deployment")
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["args"] == json.loads(containerfile("CMD"))
    assert pod["terminationGracePeriodSeconds"] >= 10 + 5 + 10
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/config", "/data", "/tmp"}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_the_probes_of_kubernetes_tell_health(
    start: Start, documents: dict[str, list[dict[str, Any]]]
) -> None:
    deployment = next(d for d in documents["kubernetes.yaml"] if d["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    config = next(d for d in documents["kubernetes.yaml"] if d["kind"] == "ConfigMap")["data"][
        "echosched.toml"
    ]
    running = start(config)
    for probe in ("startupProbe", "livenessProbe"):
        command = shlex.join(container[probe]["exec"]["command"])
        running.until(lambda command=command: running.run(command, check=False).code == 0, what=probe)
    worker = json.loads(running.run("echoschedd status --json").out)["worker_pid"]
    running.run(f"kill -STOP {worker}")
    live = shlex.join(container["livenessProbe"]["exec"]["command"])
    running.until(
        lambda: running.run(live, check=False).code != 0, what="a failing probe of a hanging worker"
    )


# ── other supervisors ─────────────────────────────────────────────────────────────────────────


def in_home(installed: lab.Chroot, script: str) -> str:
    """Run a script as an ordinary user in a fresh directory with a configuration, and return what it prints."""
    prepare = "rm -rf /srv/app; install -d -o nobody -g nogroup /srv/app; cd /srv/app;"
    config = f"printf %s {shlex.quote(BEAT)} > echosched.toml"
    wait = (
        "fired() { tries=0; until echoschedd history beat --json --home $1 2>/dev/null | grep -q succeeded; do"
        " tries=$((tries + 1)); [ $tries -lt 300 ] || return 1; sleep 0.1; done; }; "
    )
    inner = shlex.quote(f"set -e; cd /srv/app; {config}; {wait} {script}")
    return installed.run(
        f"{prepare} exec setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/srv/app sh -c {inner}",
        timeout=600,
    ).out


def procfile() -> dict[str, str]:
    lines = (EXAMPLES / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, _, command in (line.partition(":") for line in lines)}


def test_the_procfile_runs_scheduler_and_web_server(installed: lab.Chroot) -> None:
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:5055/healthz').status)"
    out = in_home(
        installed,
        f"export PORT=5055 DASHBOARD_KEY=0123456789abcdef0123456789abcdef;"
        f" sh -c {shlex.quote('exec ' + procfile()['scheduler'])} > /srv/app/s.log 2>&1 & scheduler=$!;"
        f" fired .echosched;"
        f" sh -c {shlex.quote('exec ' + procfile()['web'])} > /srv/app/w.log 2>&1 & web=$!; tries=0;"
        f" until python3 -c {shlex.quote(ask)} 2>/dev/null; do tries=$((tries + 1));"
        f" [ $tries -lt 500 ] || {{ cat /srv/app/w.log; exit 1; }}; sleep 0.2; done;"
        f" kill -TERM $web $scheduler; wait $scheduler; echo scheduler $?; wait $web; echo web $?",
    )
    assert out.split() == ["200", "scheduler", "0", "web", "0"]


def test_the_replit_workflow_keeps_the_scheduler_in_the_foreground(installed: lab.Chroot) -> None:
    document = tomllib.loads((EXAMPLES / "replit").read_text())
    tasks = [task["args"] for flow in document["workflows"]["workflow"] for task in flow["tasks"]]
    assert document["run"] in tasks
    for command in (document["run"], document["run"].replace(" --foreground", "")):
        out = in_home(
            installed,
            f"export REPL_ID=x; {command} > log 2>&1 & pid=$!; fired .echosched;"
            ' echoschedd status --json --home .echosched | grep -o \'"mode": *"[a-z]*"\';'
            " kill -TERM $pid; wait $pid; echo $?",
        )
        assert out.replace('": "', '":"').split() == ['"mode":"foreground"', "0"]


def test_supervisord_runs_it_and_stops_it_cleanly(installed: lab.Chroot) -> None:
    program = (EXAMPLES / "supervisord.conf").read_text().replace("/srv/echosched", "/srv/app/home")
    main = (
        "[supervisord]\nnodaemon=true\nlogfile=/srv/app/supervisord.log\npidfile=/srv/app/supervisord.pid\n"
    )
    main += "[unix_http_server]\nfile=/srv/app/supervisor.sock\n[supervisorctl]\nserverurl=unix:///srv/app/supervisor.sock\n"
    main += "[rpcinterface:supervisor]\n"
    main += "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    out = in_home(
        installed,
        f"mkdir home; cp echosched.toml home/; printf %s {shlex.quote(main + program)} > conf;"
        " supervisord -c conf > /dev/null 2>&1 & daemon=$!; fired home;"
        " tries=0; until supervisorctl -c conf status | grep RUNNING; do"
        " tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.2; done;"
        " pid=$(cat home/echosched.pid); supervisorctl -c conf stop echosched;"
        " ! kill -0 $pid 2>/dev/null; supervisorctl -c conf status || true; supervisorctl -c conf start echosched;"
        " supervisorctl -c conf shutdown; wait $daemon; echoschedd status --home home --json || true",
    )
    assert re.search(r"echosched +RUNNING", out)
    assert re.search(r"echosched +STOPPED", out)
    assert re.search(r'"how": *"clean"', out)


def test_every_example_is_shown_to_work_by_some_test() -> None:
    tested = {
        "Containerfile",
        "compose.yaml",
        "kubernetes.yaml",
        "Procfile",
        "replit",
        "supervisord.conf",
        "hardened.conf",
    }
    here = {path.name for path in EXAMPLES.iterdir()}
    assert tested <= here
    elsewhere = {"nginx-echosched.conf"}  # about the web server: tests/web
    assert {name for name in here - tested - elsewhere if not name.endswith(".toml")} == set(), (
        "write a test for it"
    )

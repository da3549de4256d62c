"""The API over real processes: start, stop, restart, runs, health, and a scheduler that dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_start_button_works_while_the_scheduler_is_down(instance, until):
    instance.serve()
    status = instance.get("/api/automations/status")["data"]
    assert (status["running"], status["pid"], status["health"]) == (False, None, "stopped")
    assert instance.ask("GET", "/healthz", key=None)[0] == 503
    code, answer = instance.ask("GET", "/api/jobs")
    assert (code, answer["error"]["code"]) == (503, "not_running")

    started = instance.post("/api/automations/start")
    assert started == {"ok": True, "status": "Scheduler started", "pid": instance.status()["pid"]}
    assert instance.post("/api/automations/start") == started
    assert until(lambda: instance.ask("GET", "/healthz", key=None)[0] == 200)
    # Whoever is not ready within three seconds says so; a busy machine may take that long.
    assert until(lambda: instance.ask("GET", "/readyz", key=None) == (200, {"ok": True, "ready": True}))

    restarted = instance.post("/api/automations/restart")
    assert restarted["status"] == "Scheduler restarted"
    assert restarted["pid"] == instance.status()["pid"] != started["pid"]

    assert instance.post("/api/automations/stop") == {"ok": True, "status": "Scheduler stopped"}
    assert instance.status()["running"] is False
    assert instance.post("/api/automations/stop") == {"ok": True, "status": "Scheduler stopped"}


def test_a_scheduler_started_by_the_page_outlives_the_web_server(instance):
    instance.serve()
    pid = instance.post("/api/automations/start")["pid"]
    instance.unserve()
    assert instance.status()["pid"] == pid


def test_where_detached_processes_are_ended_it_runs_as_our_own_child(instance, until):
    instance.environ["REPL_ID"] = "1"
    instance.serve()
    pid = instance.post("/api/automations/start")["pid"]
    assert instance.status()["mode"] == "foreground"
    with open(f"/proc/{pid}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    assert parent == instance.server.pid
    again = instance.post("/api/automations/restart")["pid"]
    assert again == instance.status()["pid"] != pid
    instance.post("/api/automations/stop")
    assert until(lambda: not instance.status()["running"])
    assert instance.post("/api/automations/start")["pid"] == instance.status()["pid"]
    instance.unserve()
    assert instance.status()["running"] is False


@pytest.mark.parametrize("host", ["", "repl"])
def test_a_broken_configuration_fails_the_start_with_its_reasons(instance, host):
    if host:
        instance.environ["REPL_ID"] = "1"
    instance.configure('[job.x]\nschedule = "61 * * * *"\ncommand = "true"\n')
    instance.serve()
    code, answer = instance.ask("POST", "/api/automations/start")
    assert (code, answer["error"]["code"]) == (409, "bad_config")
    assert "job.x.schedule" in answer["error"]["message"]
    assert instance.get("/api/automations/status")["data"]["running"] is False


@pytest.mark.parametrize("host", ["", "repl"])
def test_a_restart_with_a_broken_configuration_changes_nothing(instance, host):
    if host:
        instance.environ["REPL_ID"] = "1"
    instance.serve()
    pid = instance.post("/api/automations/start")["pid"]
    instance.configure('[job.x]\nschedule = "61 * * * *"\ncommand = "true"\n')
    code, answer = instance.ask("POST", "/api/automations/restart")
    assert (code, answer["error"]["code"]) == (409, "bad_config")
    assert instance.status()["pid"] == pid
    code, answer = instance.ask("POST", "/api/automations/reload")
    assert (code, answer["error"]["code"]) == (409, "bad_config")


def test_runs_can_be_started_watched_paged_and_cancelled(served, until):
    run = served.post("/api/jobs/backup/run?wait=1")
    assert (run["data"]["state"], run["data"]["exit_code"]) == ("failed", 2)
    output = served.get(f"/api/runs/{run['run']}/output")["data"]
    assert output["text"] == "dumping\npg_dump: error: connection refused\n"
    assert (output["size"], output["next_offset"], output["done"]) == (
        len(output["text"]),
        len(output["text"]),
        True,
    )
    assert served.get(f"/api/runs/{run['run']}/output?offset=-8")["data"]["text"] == "refused\n"

    sleeper = served.post("/api/jobs/sleeper/run")["run"]
    until(lambda: served.get(f"/api/runs/{sleeper}")["data"]["state"] == "running")
    assert served.get("/api/jobs/sleeper")["data"]["running"][0]["run"] == sleeper
    served.post(f"/api/runs/{sleeper}/cancel")
    assert served.ended(sleeper)["state"] == "cancelled"

    for _ in range(3):
        served.ended(served.post("/api/jobs/hello/run")["run"])
    page = served.get("/api/runs?limit=2")
    assert len(page["data"]) == 2
    older = served.get(f"/api/runs?limit=2&before_run={page['next']}")
    assert [row["run"] for row in older["data"]] == [page["next"] - 1, page["next"] - 2]
    assert [row["job"] for row in served.get("/api/runs?state=failed")["data"]] == ["backup"]
    assert {row["job"] for row in served.get("/api/jobs/hello/history")["data"]} == {"hello"}


def test_the_original_addresses_run_the_built_in_jobs(served):
    for path in ("/api/exec/brief", "/api/exec/report", "/api/self-heal"):
        assert served.ended(served.post(path)["run"])["state"] == "succeeded", path
    assert served.post("/api/exec/brief?wait=1")["data"]["state"] == "succeeded"
    assert list((served.home / "reports").glob("*.html"))


def test_pause_and_resume_are_seen_by_the_command_line(served):
    served.post("/api/jobs/hello/pause")
    assert {job["name"]: job["paused"] for job in json.loads(served.cli("jobs", "--json").stdout)}[
        "hello"
    ] is True
    served.post("/api/jobs/hello/resume")
    assert served.get("/api/jobs/hello")["data"]["paused"] is False


def test_timeline_next_and_journal_tell_of_what_happened(served):
    run = served.post("/api/jobs/hello/run?wait=1")["run"]
    timeline = served.get("/api/timeline")["data"]
    assert [row["run"] for row in timeline["runs"]] == [run]
    year = served.get("/api/timeline?from=2030-12-20T00:00:00Z&to=2031-01-10T00:00:00Z")["data"]
    assert {slot["job"] for slot in year["next"]} >= {"hello", "backup", "brief"}
    assert served.get("/api/next?job=hello&n=3")["data"][0]["job"] == "hello"
    events = served.get("/api/journal?job=hello")["data"]
    assert [event["event"] for event in events][-1] == "run_end"
    assert served.get("/api/metrics-summary")["data"]["runs"]["succeeded"] == 1


def test_prometheus_finds_what_it_needs_and_no_command(served):
    served.post("/api/jobs/backup/run?wait=1")
    request = urllib.request.Request(
        served.url + "/metrics", headers={"Authorization": f"Bearer {served.environ['DASHBOARD_KEY']}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    assert re.search(r"^echosched_up 1\.0$", text, re.MULTILINE)
    assert 'echosched_runs_total{job_name="backup",state="failed"} 1.0' in text
    assert "pg_dump" not in text
    served.post("/api/automations/stop")
    with urllib.request.urlopen(request, timeout=60) as response:
        assert b"echosched_up 0.0" in response.read()


def test_a_worker_that_was_killed_is_told_and_replaced(served, until, kill):
    before = served.get("/api/automations/status")["data"]
    kill(before["worker_pid"])

    def replaced():
        now = served.get("/api/automations/status")["data"]
        return (
            now["restarts"] == 1
            and now["health"] == "ok"
            and now["worker_pid"] != before["worker_pid"]
            and now
        )

    assert until(replaced)["pid"] == before["pid"]
    assert (
        until(lambda: served.get("/api/journal?event=worker_exit")["data"])[-1]["pid"] == before["worker_pid"]
    )
    assert served.post("/api/jobs/hello/run?wait=1")["data"]["state"] == "succeeded"


def test_a_daemon_that_was_killed_is_told_with_how_it_ended(served, until, kill):
    kill(served.get("/api/automations/status")["data"]["pid"])
    status = until(
        lambda: (now := served.get("/api/automations/status")["data"])["health"] == "stopped" and now
    )
    assert status["last_exit"]["how"] == "signal 9"
    code, answer = served.ask("GET", "/healthz", key=None)
    assert (code, answer["error"]["code"]) == (503, "stopped")
    assert "signal 9" in answer["error"]["message"]


def test_records_are_read_while_nothing_runs_and_secrets_stay_masked(served):
    secret = "s3cr3t-enough-to-mask"
    served.environ["VAULT_TOKEN"] = secret
    served.configure(
        '[job.leak]\nschedule = "0 0 1 1 *"\ncommand = "echo token $TOKEN; exit 3"\n'
        'env = { TOKEN = "${env:VAULT_TOKEN}" }\n'
    )
    served.cli("restart")
    run = served.post("/api/jobs/leak/run?wait=1")["run"]
    served.cli("stop")
    served.unserve()
    served.serve()
    assert [row["run"] for row in served.get("/api/runs")["data"]] == [run]
    assert served.get("/api/jobs/leak")["data"]["last_run"]["exit_code"] == 3
    assert served.get("/api/jobs")["data"][0]["next_at"] is None
    assert [row["run"] for row in served.get("/api/timeline")["data"]["runs"]] == [run]
    text = served.get(f"/api/runs/{run}/output")["data"]["text"]
    assert text.startswith("token ")
    assert secret not in text
    assert served.ask("GET", "/api/runs/999")[0] == 404
    for path in ("/api/jobs/leak/run", "/api/jobs/leak/pause", f"/api/runs/{run}/cancel"):
        assert served.ask("POST", path)[0] == 503
    served.unserve()
    del served.environ["VAULT_TOKEN"]
    served.serve()
    code, answer = served.ask("GET", f"/api/runs/{run}/output")
    assert (code, answer["error"]["code"]) == (409, "conflict")
    assert secret not in str(answer)


def test_a_stopped_worker_hangs_neither_status_nor_health(instance, until):
    # It counts as stalled after 7 s, and is replaced after 18.
    text = (instance.home / "echosched.toml").read_text()
    instance.configure(text.replace("[daemon]\n", '[daemon]\nwatchdog = "18s"\n'))
    instance.cli("start")
    instance.serve()
    pid = instance.get("/api/automations/status")["data"]["worker_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        stalled = until(
            lambda: (answer := instance.ask("GET", "/healthz", key=None, timeout=15))[0] == 503 and answer
        )
        assert stalled[1]["error"]["code"] in ("stalled", "degraded")
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have been replaced already
            os.kill(pid, signal.SIGCONT)
    until(lambda: instance.ask("GET", "/healthz", key=None)[0] == 200)


def test_the_key_is_named_once_and_never_again(instance):
    del instance.environ["DASHBOARD_KEY"]
    instance.serve()
    key = next(line for line in instance.said if line.startswith("key: ")).split()[1]
    assert (instance.home / "web.key").read_text().strip() == key
    assert (instance.home / "web.key").stat().st_mode & 0o777 == 0o600
    assert instance.ask("GET", "/api/automations/status", key=key)[0] == 200
    instance.unserve()
    instance.serve()
    assert key not in " ".join(instance.said)
    assert instance.ask("GET", "/api/automations/status", key=key)[0] == 200


def test_beyond_loopback_it_needs_a_chosen_key(instance):
    del instance.environ["DASHBOARD_KEY"]
    refused = instance.cli("web", "--host", "0.0.0.0", "--port", "0", check=False)
    assert refused.returncode == 2
    assert "without a key" in refused.stderr
    assert not (instance.home / "web.key").exists()


def test_a_taken_port_is_one_line_and_an_exit_code(served):
    port = served.url.rsplit(":", 1)[1]
    refused = served.cli("web", "--port", port, check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "cannot listen" in refused.stderr


def test_events_are_resumed_behind_the_last_one_also_by_a_new_web_server(served):
    key = served.environ["DASHBOARD_KEY"]
    first = served.post("/api/jobs/hello/run?wait=1")["run"]
    last = served.get("/api/journal")["last_id"]
    second = served.post("/api/jobs/hello/run?wait=1")["run"]
    served.unserve()
    served.serve()

    def listen(after, wanted):
        request = urllib.request.Request(
            served.url + "/api/events", headers={"X-Dash-Key": key, "Last-Event-ID": after}
        )
        with urllib.request.urlopen(request, timeout=60) as stream:
            for line in stream:
                if wanted in line:
                    return
                assert f'"run":{first},'.encode() not in line

    listen(last, f'"event":"run_end","job":"hello","run":{second},'.encode())
    for gone in ("1:1", "nonsense", f"{last.partition(':')[0]}:999999999"):
        listen(gone, b"event: reset")


def test_the_web_server_leaves_at_once_although_pages_are_open(served):
    request = urllib.request.Request(
        served.url + "/api/events", headers={"X-Dash-Key": served.environ["DASHBOARD_KEY"]}
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        assert stream.readline().startswith(b"retry")
        served.server.terminate()
        try:
            assert served.server.wait(30) == 0  # aiohttp would wait a minute
        except subprocess.TimeoutExpired:
            pytest.fail("it waited for an open page")

"""The API's contract over an in-memory scheduler: answers, errors, paging, guard."""

from __future__ import annotations

import asyncio
import sys

import pytest

from echosched.errors import ConfigError


async def test_start_answers_the_pid_and_again_the_same_pid(browser, backend):
    backend.running = False
    assert await browser.post("/api/automations/start") == (
        200,
        {"ok": True, "status": "Scheduler started", "pid": 101},
    )
    assert await browser.post("/api/automations/start") == (
        200,
        {"ok": True, "status": "Scheduler started", "pid": 101},
    )


async def test_stop_and_restart_answer_as_designed(browser, backend):
    assert await browser.post("/api/automations/stop") == (200, {"ok": True, "status": "Scheduler stopped"})
    assert await browser.post("/api/automations/restart") == (
        200,
        {"ok": True, "status": "Scheduler restarted", "pid": 101},
    )


async def test_status_is_an_answer_also_when_nothing_runs(browser, backend):
    backend.running = False
    status, answer = await browser.get("/api/automations/status")
    assert status == 200
    assert answer["data"]["running"] is False
    assert answer["data"]["pid"] is None


async def test_a_failed_start_says_why(browser, failing_start):
    status, answer = await browser.post("/api/automations/start")
    assert status == 500
    assert answer == {
        "ok": False,
        "error": {"code": "start_failed", "message": "scheduler: died before it was ready: exit code 70"},
    }


async def test_a_bad_configuration_is_a_conflict_with_all_reasons(browser, failing_start):
    failing_start.start_error = ConfigError(["a: wrong", "b: wrong too"])
    status, answer = await browser.post("/api/automations/start")
    assert (status, answer["error"]) == (409, {"code": "bad_config", "message": "a: wrong\nb: wrong too"})


@pytest.mark.parametrize(
    ("path", "job"),
    [("/api/exec/brief", "brief"), ("/api/exec/report", "report"), ("/api/self-heal", "selfheal")],
)
async def test_the_original_addresses_trigger_their_jobs(browser, backend, path, job):
    assert await browser.post(path) == (200, {"ok": True, "run": 1})
    assert backend.runs[1]["job"] == job


async def test_waiting_for_a_run_that_goes_on_answers_202_with_its_state(browser):
    status, answer = await browser.post("/api/exec/brief?wait=1")
    assert status == 202
    assert answer["ok"] is True
    assert answer["run"] == 1
    assert answer["data"]["state"] == "running"


async def test_waiting_for_a_run_answers_its_outcome(browser, backend):
    async def end(op):
        if op == "wait":
            backend.runs[1]["state"] = "succeeded"

    backend.delay = end
    status, answer = await browser.post("/api/jobs/backup/run", json={"wait": True})
    assert (status, answer["run"], answer["data"]["state"]) == (200, 1, "succeeded")


@pytest.mark.parametrize("guard_seconds", [0.1])
async def test_past_the_guard_the_answer_is_202_and_the_work_goes_on(browser, backend):
    backend.running = False
    gate = asyncio.Event()

    async def slow(op):
        if op == "start":
            await gate.wait()

    backend.delay = slow
    status, answer = await browser.post("/api/automations/start")
    assert status == 202
    assert answer["data"]["running"] is False
    gate.set()
    async with asyncio.timeout(30):
        while not backend.running:
            await asyncio.sleep(0)


async def test_jobs_are_paged_by_name(browser):
    _, first = await browser.get("/api/jobs?limit=3")
    assert [job["name"] for job in first["data"]] == ["backup", "brief", "report"]
    assert (first["total"], first["next"]) == (4, "report")
    _, second = await browser.get("/api/jobs?limit=3&after=report")
    assert ([job["name"] for job in second["data"]], second["next"]) == (["selfheal"], None)


async def test_jobs_can_be_searched(browser):
    _, answer = await browser.get("/api/jobs?q=HEAL")
    assert [job["name"] for job in answer["data"]] == ["selfheal"]


async def test_pause_shows_at_once_in_the_next_read(browser):
    await browser.get("/api/jobs")
    assert (await browser.post("/api/jobs/backup/pause"))[0] == 200
    _, answer = await browser.get("/api/jobs/backup")
    assert answer["data"]["paused"] is True
    await browser.post("/api/jobs/backup/resume")
    _, answer = await browser.get("/api/jobs/backup")
    assert answer["data"]["paused"] is False


async def test_unknown_jobs_and_runs_are_404(browser):
    for path in (
        "/api/jobs/nope",
        "/api/jobs/nope/history",
        "/api/runs?job=nope",
        "/api/runs/999",
        "/api/runs/999/output",
        "/api/next?job=nope",
    ):
        status, answer = await browser.get(path)
        assert (status, answer["ok"], answer["error"]["code"]) == (404, False, "not_found"), path
    status, _ = await browser.post("/api/jobs/nope/run")
    assert status == 404


async def test_runs_are_paged_newest_first_and_filtered(browser, backend):
    for _ in range(5):
        await browser.post("/api/jobs/backup/run")
    backend.runs[2]["state"] = "failed"
    backend.runs[4]["state"] = "timed_out"
    _, page = await browser.get("/api/runs?limit=2")
    assert ([row["run"] for row in page["data"]], page["next"]) == ([5, 4], 4)
    _, page = await browser.get(f"/api/runs?limit=3&before_run={page['next']}")
    assert [row["run"] for row in page["data"]] == [3, 2, 1]
    _, page = await browser.get("/api/runs?state=failed,timed_out")
    assert [row["run"] for row in page["data"]] == [4, 2]
    _, page = await browser.get("/api/jobs/backup/history?state=failed&state=timed_out")
    assert [row["run"] for row in page["data"]] == [4, 2]


async def test_output_is_read_in_pieces(browser, backend):
    await browser.post("/api/jobs/backup/run")
    backend.outputs[1] = "<script>alert(1)</script>\n"
    _, first = await browser.get("/api/runs/1/output?limit=8")
    assert first["data"] == {"text": "<script>", "next_offset": 8, "size": 26, "done": False}
    _, second = await browser.get("/api/runs/1/output?offset=8")
    assert second["data"]["text"] == "alert(1)</script>\n"


async def test_cancelling_twice_is_a_conflict(browser):
    await browser.post("/api/jobs/backup/run")
    assert (await browser.post("/api/runs/1/cancel"))[0] == 200
    status, answer = await browser.post("/api/runs/1/cancel")
    assert (status, answer["error"]["code"]) == (409, "conflict")


async def test_without_a_scheduler_reads_are_503_and_say_so(browser, backend):
    backend.running = False
    status, answer = await browser.get("/api/jobs")
    assert (status, answer["error"]["code"]) == (503, "not_running")


async def test_timeline_bounds_are_checked_and_told(browser):
    _, answer = await browser.get("/api/timeline?from=2026-11-19T00:00:00Z&to=2026-11-20T00:00:00Z")
    assert answer["data"]["from"] == "2026-11-19T00:00:00.000000Z"
    _, answer = await browser.get("/api/timeline?from=2026-01-01T00:00:00Z&to=2026-12-01T00:00:00Z")
    assert answer["data"]["to"] == "2026-02-02T00:00:00.000000Z"
    reversed_ = await browser.get("/api/timeline?from=2026-11-20T00:00:00Z&to=2026-11-19T00:00:00Z")
    assert reversed_[0] == 400


async def test_health_is_200_only_while_the_loop_beats(browser, backend):
    nobody = {"X-Dash-Key": None}
    assert await browser.get("/healthz", headers=nobody) == (200, {"ok": True, "health": "ok"})
    assert (await browser.get("/readyz", headers=nobody))[0] == 200
    backend.health = "stalled"
    await browser.post("/api/self-heal")  # any change makes shared answers forgotten
    status, answer = await browser.get("/healthz", headers=nobody)
    assert (status, answer["error"]["code"]) == (503, "stalled")
    backend.running = False
    await browser.post("/api/automations/stop")
    status, answer = await browser.get("/healthz", headers=nobody)
    assert (status, answer["error"]["code"]) == (503, "stopped")
    assert "signal 9" in answer["error"]["message"]
    assert (await browser.get("/readyz", headers=nobody))[0] == 503


async def test_a_scheduler_that_stops_is_alive_but_not_ready(browser, backend):
    backend.stopping = {"at": "2026-11-20T07:00:00.000000Z", "reason": "SIGTERM"}
    nobody = {"X-Dash-Key": None}
    assert (await browser.get("/healthz", headers=nobody))[0] == 200
    status, answer = await browser.get("/readyz", headers=nobody)
    assert (status, answer["error"]["code"]) == (503, "stopping")


async def test_a_flag_without_a_value_is_refused_since_it_could_mean_either(browser, backend):
    for query in ("?wait=", "?wait"):
        status, answer = await browser.post(f"/api/jobs/backup/run{query}")
        assert (status, answer["error"]["code"]) == (400, "usage")
        assert "must be 1 or 0" in answer["error"]["message"]
    assert backend.runs == {}


async def test_metrics_without_their_library_name_the_cure(browser, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, answer = await browser.get("/metrics")
    assert (status, answer["error"]["code"]) == (503, "not_installed")
    assert "echosched[web]" in answer["error"]["message"]


async def test_the_journal_is_filtered_on_the_server(browser, backend):
    backend.emit("run_end", job="backup", run=1, state="failed", error="no space")
    backend.emit("run_end", job="brief", run=2, state="succeeded")
    backend.emit("tick", tick=1)
    _, answer = await browser.get("/api/journal?job=backup")
    assert [event["run"] for event in answer["data"]] == [1]
    _, answer = await browser.get("/api/journal?event=tick,ready")
    assert [event["event"] for event in answer["data"]] == ["tick"]
    _, answer = await browser.get("/api/journal?q=NO+SPACE")
    assert [event["run"] for event in answer["data"]] == [1]
    assert answer["last_id"] == "3"


async def test_many_equal_reads_at_one_moment_are_one_question(browser, backend):
    gate = asyncio.Event()

    async def slow(op):
        if op == "jobs":
            await gate.wait()

    backend.delay = slow
    crowd = [asyncio.ensure_future(browser.get("/api/jobs")) for _ in range(20)]
    async with asyncio.timeout(30):
        while not backend.calls:
            await asyncio.sleep(0.01)
    gate.set()
    answers = await asyncio.gather(*crowd)
    assert all(status == 200 for status, _ in answers)
    assert [op for op, _ in backend.calls] == ["jobs", "recent"]


async def test_a_failed_read_is_not_kept(browser, backend):
    backend.running = False
    assert (await browser.get("/api/jobs"))[0] == 503
    backend.running = True
    assert (await browser.get("/api/jobs"))[0] == 200

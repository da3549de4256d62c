"""The table of endpoints: what DESIGN §8 promises, and what the dashboard needs besides."""

from __future__ import annotations

from typing import Any

from echosched.model import State
from echosched.web.api import Api
from echosched.web.endpoints import MAX_RUN, Endpoint, Param
from echosched.web.joblist import KINDS, SORTS

_JOB = Param("job", where="path", text="a job's name")
_RUN = Param("run", "integer", "path", "a run's number", minimum=1)
_WAIT = Param("wait", "flag", text="wait for the outcome (past the guard: 202)", default=False)
_HISTORY = (
    Param("state", "choices", text="only these states", values=tuple(str(state) for state in State)),
    Param("since", "instant", text="queued at or after this instant"),
    Param("until", "instant", text="queued before this instant"),
    Param("before_run", "integer", text="the page after this run (newest first)", minimum=1),
    Param("limit", "integer", text="how many", default=50, minimum=1, maximum=1000),
)

_OBJECT: dict[str, Any] = {"type": "object"}
_LIST: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer"}
_STATUS = {"data": {"$ref": "#/components/schemas/Status"}}
_RUNS = {
    "data": {"type": "array", "items": {"$ref": "#/components/schemas/Run"}},
    "next": {"type": ["integer", "null"]},
}
_TRIGGERED = {"run": _NUMBER}
_DONE = {"status": _TEXT}

_NEEDS_WORKER = (503,)
_OF_JOB = (404, 503)


def endpoints(api: Api) -> list[Endpoint]:
    """Return all endpoints that answer documents or streams; pages and files are :mod:`echosched.web.pages`."""
    return [*_scheduler(api), *_jobs(api), *_runs(api), *_watching(api)]


def _scheduler(api: Api) -> list[Endpoint]:
    base = "/api/automations"
    return [
        Endpoint("GET", f"{base}/status", "status", "How the scheduler is", api.status, answer=_STATUS),
        Endpoint("POST", f"{base}/start", "start", "Start the scheduler; running already: the same pid",
                 api.start, answer={"status": _TEXT, "pid": _NUMBER}, errors=(403, 409)),
        Endpoint("POST", f"{base}/stop", "stop", "Stop the scheduler", api.stop, answer=_DONE, errors=(403,)),
        Endpoint("POST", f"{base}/restart", "restart", "Stop and start; a bad configuration changes nothing",
                 api.restart, answer={"status": _TEXT, "pid": _NUMBER}, errors=(403, 409)),
        Endpoint("POST", f"{base}/reload", "reload", "Read the configuration again; a bad one changes nothing",
                 api.reload, answer=_DONE, errors=(409, *_NEEDS_WORKER)),
    ]  # fmt: skip


def _jobs(api: Api) -> list[Endpoint]:
    return [
        Endpoint("POST", "/api/exec/brief", "exec_brief", "Run the job brief now", api.brief, (_WAIT,),
                 _TRIGGERED, (404, 409, 503)),
        Endpoint("POST", "/api/exec/report", "exec_report", "Run the job report now", api.report, (_WAIT,),
                 _TRIGGERED, (404, 409, 503)),
        Endpoint("POST", "/api/self-heal", "self_heal", "Run the job selfheal now", api.self_heal, (_WAIT,),
                 _TRIGGERED, (404, 409, 503)),
        Endpoint("GET", "/api/jobs", "jobs", "Jobs by name", api.jobs, (
            Param("q", text="only jobs with this in name, description or labels"),
            Param("only", "choice", text="only these", default="all", values=tuple(KINDS)),
            Param("sort", "choice", text="in this order", default="name", values=tuple(SORTS)),
            Param("down", "flag", text="the other way round", default=False),
            Param("after", text="the page after this name (in the order of names)"),
            Param("offset", "integer", text="from this one on", default=0, maximum=1_000_000),
            Param("limit", "integer", text="how many", default=1000, minimum=1, maximum=10000),
            Param("recent", "flag", text="with how the latest runs of each went", default=True),
        ), {"data": _LIST, "total": _NUMBER, "found": _NUMBER, "counts": _OBJECT,
            "next": {"type": ["string", "null"]}}, _NEEDS_WORKER),
        Endpoint("GET", "/api/jobs/{job}", "job", "One job", api.job, (_JOB,), {"data": _OBJECT}, _OF_JOB),
        Endpoint("GET", "/api/jobs/{job}/history", "job_history", "A job's runs, newest first",
                 api.job_history, (_JOB, *_HISTORY), _RUNS, _OF_JOB),
        Endpoint("POST", "/api/jobs/{job}/run", "run_job", "Run a job now", api.run_job, (_JOB, _WAIT),
                 _TRIGGERED, (404, 409, 503)),
        Endpoint("POST", "/api/jobs/{job}/pause", "pause", "Pause a job", api.pause, (_JOB,), _DONE,
                 (404, 409, 503)),
        Endpoint("POST", "/api/jobs/{job}/resume", "resume", "Resume a job", api.resume, (_JOB,), _DONE,
                 (404, 409, 503)),
        Endpoint("GET", "/api/next", "next", "Coming slots", api.next, (
            Param("job", text="of this job only"),
            Param("n", "integer", text="how many", default=10, minimum=1, maximum=1000),
        ), {"data": _LIST}, _OF_JOB),
    ]  # fmt: skip


def _runs(api: Api) -> list[Endpoint]:
    return [
        Endpoint("GET", "/api/runs", "runs", "Runs, newest first", api.runs,
                 (Param("job", text="of this job only"), *_HISTORY), _RUNS, _OF_JOB),
        Endpoint("GET", "/api/runs/{run}", "run", "One run with its attempts", api.run, (_RUN,),
                 {"data": {"$ref": "#/components/schemas/Run"}}, _OF_JOB),
        Endpoint("GET", "/api/runs/{run}/output", "output", "A piece of a run's output", api.output, (
            _RUN,
            Param("attempt", "integer", text="which attempt (default: the latest)", minimum=1, maximum=100000),
            Param("offset", "integer", text="from this byte (negative: from the end)", default=0,
                  minimum=-MAX_RUN),
            Param("limit", "integer", text="at most this many bytes", default=65536, minimum=1, maximum=1048576),
        ), {"data": _OBJECT}, _OF_JOB),
        Endpoint("POST", "/api/runs/{run}/cancel", "cancel", "Cancel a run", api.cancel, (_RUN,), _DONE,
                 (404, 409, 503)),
        Endpoint("GET", "/api/timeline", "timeline", "Runs and coming slots between two instants", api.timeline, (
            Param("from", "instant", text="default: 48 hours before to, or 24 hours ago"),
            Param("to", "instant", text="default: 48 hours after from"),
        ), {"data": _OBJECT}, _NEEDS_WORKER),
    ]  # fmt: skip


def _watching(api: Api) -> list[Endpoint]:
    return [
        Endpoint("GET", "/api/events", "events", "Journal events and changes of status, as they happen", api.events, (
            Param("after", text="resume behind this event id (or header Last-Event-ID)"),
        ), guarded=False, content_type="text/event-stream"),
        Endpoint("GET", "/api/journal", "journal", "The journal's last events", api.journal, (
            Param("n", "integer", text="how many", default=200, minimum=1, maximum=5000),
            Param("job", text="of this job only"),
            Param("event", text="only these events (comma-separated)"),
            Param("q", text="only events with this text"),
        ), {"data": _LIST, "last_id": _TEXT}),
        Endpoint("GET", "/api/metrics-summary", "metrics_summary", "The metrics' main figures",
                 api.metrics_summary, answer={"data": _OBJECT}),
        Endpoint("GET", "/metrics", "metrics", "Prometheus metrics", api.metrics, errors=(503,),
                 content_type="text/plain"),
        Endpoint("GET", "/healthz", "healthz", "200 only while the scheduler's loop beats", api.healthz,
                 answer={"health": _TEXT}, errors=(503,), open_to_all=True),
        Endpoint("GET", "/readyz", "readyz", "200 only if the scheduler answers", api.readyz,
                 answer={"ready": {"type": "boolean"}}, errors=(503,), open_to_all=True),
    ]  # fmt: skip

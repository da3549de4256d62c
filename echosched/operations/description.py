"""What people want to read of a job: what it does, when, by which rules, how long it usually takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from echosched.model import (
    Action,
    BuiltinAction,
    CallableAction,
    CommandAction,
    HttpAction,
    Job,
    PythonAction,
    Run,
    State,
)

if TYPE_CHECKING:
    from echosched.schedule import Timetable


def describe(job: Job, redact: Callable[[str], str]) -> dict[str, Any]:
    """Return what the dashboard shows of a job's definition; *redact* masks the secrets in its command."""
    from echosched.schedule import explain

    policy = job.policy
    after = None if job.after is None else {"job": job.after.job, "when": str(job.after.when)}
    return {
        "schedule_english": explain(cast("Timetable", job.schedule)) if job.schedule is not None else "",
        "after": after,
        "kind": _kind(job.action),
        "action": redact(_summary(job.action)),
        "labels": list(policy.labels),
        "policy": {
            "timeout_seconds": None if policy.timeout is None else policy.timeout.total_seconds(),
            "retries": policy.retries,
            "overlap": str(policy.overlap),
            "catchup": str(policy.catchup),
            "on_abandoned": str(policy.on_abandoned),
            "priority": policy.priority,
            "concurrency_group": policy.concurrency_group,
            "heal": policy.heal,
        },
    }


RECENT = 20
"""How many of a job's latest runs tell its usual duration."""


def recent_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the latest *runs* (newest first) were like: ``recent``, oldest first, and the usual duration."""
    return {
        "recent": [
            {"run": run.run, "state": str(run.state), "duration_seconds": run.duration_seconds}
            for run in reversed(runs)
        ],
        "usual_duration_seconds": usual_duration(runs),
    }


def run_details(run: Run, before: Sequence[Run]) -> dict[str, Any]:
    """Return what one run's own row has beside that of a list; *before* are succeeded runs of its job."""
    return {
        "attempts": [dict(attempt) for attempt in run.attempts],
        "pid": None if run.process is None or run.state.is_outcome else run.process.pid,
        "usual_duration_seconds": usual_duration(before),
    }


def usual_duration(runs: Sequence[Run]) -> float | None:
    """Return the median duration in seconds of the succeeded ones among *runs*, ``None`` without any."""
    durations = sorted(
        run.duration_seconds
        for run in runs
        if run.state is State.SUCCEEDED and run.duration_seconds is not None
    )
    return durations[len(durations) // 2] if durations else None


def _kind(action: Action) -> str:
    kinds = {
        CommandAction: "command",
        HttpAction: "http",
        PythonAction: "python",
        BuiltinAction: "builtin",
        CallableAction: "callable",
    }
    return kinds[type(action)]


def _summary(action: Action) -> str:
    match action:
        case CommandAction(command=str() as text):
            return text
        case CommandAction(command=argv):
            import shlex

            return shlex.join(argv)
        case HttpAction(method=method, url=url):
            return f"{method} {url}"
        case PythonAction(target=target):
            return target
        case BuiltinAction(name=name):
            return name
        case CallableAction(function=function):
            return getattr(function, "__qualname__", repr(function))

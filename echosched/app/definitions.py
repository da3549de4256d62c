"""What a program says about its jobs, judged by the same rules as a configuration file.

A keyword of :meth:`~echosched.app.library.Scheduler.job` is a key of ``[job.NAME]``; what is wrong is told at
the line that said it, all of it at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any, Literal, TypedDict

from echosched.config.actions import ACTION_KEYS
from echosched.config.checks import check_after, check_groups
from echosched.config.job_keys import KINDS_OF
from echosched.config.jobs import JobReader, Links
from echosched.config.values import Problems, duration, nearest
from echosched.errors import ConfigError, UsageError
from echosched.model import Action, CallableAction, Job

__all__ = ["Definitions", "Duration", "JobOptions"]

Duration = str | float | timedelta
"""A length of time: ``"90s"``, ``"1h30m"``, a number of seconds, or a ``timedelta``."""

# What only the daemon has: its messages, its self-heal pass.
_NOT_HERE = ("builtin", "notify", "healthcheck", "heal")


class JobOptions(TypedDict, total=False):
    """The keys of a job (echosched.toml(5)); the last group is for jobs with a process of their own."""

    description: str
    enabled: bool
    timezone: str
    dst: Literal["once", "skip", "every"]
    after: str | Mapping[str, str]
    jitter: Duration
    timeout: Duration | None
    kill_after: Duration
    retries: int
    retry_delay: Duration
    retry_backoff: float
    retry_max_delay: Duration
    overlap: Literal["skip", "queue", "queue_all", "replace", "allow"]
    catchup: Literal["last", "none", "all"]
    catchup_window: Duration
    on_abandoned: Literal["leave", "retry"]
    concurrency_group: str | Mapping[str, Any]
    priority: int
    output: bool
    output_limit: int | str
    labels: Sequence[str]

    args: Sequence[Any]
    stdin: str
    shell: str
    env: Mapping[str, str]
    env_file: str | os.PathLike[str]
    cwd: str | os.PathLike[str]
    user: str
    group: str
    umask: int | str
    nice: int
    limits: Mapping[str, int | str]
    success_codes: Sequence[int]


class Definitions:
    """The jobs that a program has defined so far, by name."""

    def __init__(self, timezone: str) -> None:
        """Begin with none; *timezone* is for jobs that name none of their own."""
        self.jobs: dict[str, Job] = {}
        self._last: tuple[str, Job | None] | None = None  # what the latest change replaced
        self._timezone = timezone
        problems = Problems()
        wrong = _reader(problems).zone_problem(timezone)
        if wrong is not None:
            raise ConfigError(f"timezone: {timezone!r}: {wrong}")

    def add(
        self,
        name: str,
        schedule: str | Sequence[str] | None,
        table: Mapping[str, Any],
        *,
        action: Action | None,
        excluded: str | Sequence[str] = (),
        place: str,
    ) -> Job:
        """Judge and keep one job; raises ``ConfigError`` with all that is wrong with it, or if it exists."""
        if name in self.jobs:
            raise ConfigError(
                f"{place}: job.{name}: there is a job of that name already ({self._where(name)})"
            )
        self._refuse(name, table, action, place)
        content = {key: _plain(key, value) for key, value in table.items()}
        if schedule is not None:
            content["schedule"] = _plain("schedule", schedule)
        if excluded:
            content["except"] = _plain("except", excluded)
        problems = Problems()
        job = _reader(problems).job(name, content, place, {}, self._timezone, action=action)
        if problems.lines or job is None:
            raise ConfigError(problems.lines)
        self.jobs[name], self._last = job, (name, None)
        return job

    def _refuse(self, name: str, table: Mapping[str, Any], action: Action | None, place: str) -> None:
        problems = [
            f"{place}: job.{name}.{key}: only the daemon has this (Scheduler.on tells of events)"
            for key in _NOT_HERE
            if key in table
        ]
        if isinstance(action, CallableAction):
            problems += [
                f"{place}: job.{name}.{key}: means nothing for a function, which runs in this program"
                for key in (*ACTION_KEYS, *KINDS_OF)
                if key in table
            ]
        if problems:
            raise ConfigError(problems)

    def remove(self, name: str) -> None:
        """Forget a job; raises ``ConfigError`` for an unknown one."""
        if name not in self.jobs:
            raise ConfigError(f"job {name}: there is no such job{nearest(name, self.jobs)}")
        self._last = (name, self.jobs.pop(name))

    def check(self) -> None:
        """Judge what can only be judged together: chains and groups. Raises ``ConfigError``."""
        problems = Problems()
        links = [Links(job.source, job.name, job.after, job.policy) for job in self.jobs.values()]
        check_after(links, self.jobs, problems)
        check_groups(links, problems)
        if problems.lines:
            raise ConfigError(problems.lines)

    def check_or_undo(self, name: str) -> None:
        """Judge all jobs together; take the latest change, that of *name*, back if they do not fit any more."""
        try:
            self.check()
        except ConfigError:
            if self._last is not None and self._last[0] == name:
                before = self._last[1]
                if before is None:
                    del self.jobs[name]
                else:
                    self.jobs[name] = before
            raise

    def _where(self, name: str) -> str:
        return self.jobs[name].source.rpartition(": job.")[0]


def caller(depth: int) -> str:
    """Return ``file.py:12`` of whoever called, *depth* frames up."""
    frame: FrameType | None = sys._getframe(depth)
    if frame is None:
        return "program"
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _reader(problems: Problems) -> JobReader:
    return JobReader(problems, uid=os.geteuid(), stays_root=True)


def _plain(key: str, value: Any) -> Any:
    """Return *value* as a TOML file would have it."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f}s"
    if isinstance(value, float) and key != "retry_backoff":
        return f"{value:.6f}s"
    if value is None and key == "timeout":
        return 0  # no limit
    if isinstance(value, os.PathLike):
        return os.path.abspath(os.fspath(value))
    if isinstance(value, Mapping):
        return {name: _plain(key, item) for name, item in value.items()}
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    return value


def seconds_of(length: Duration) -> float:
    """Return a duration in seconds; raises ``UsageError`` for what is none."""
    if isinstance(length, timedelta):
        return length.total_seconds()
    if isinstance(length, (int, float)) and not isinstance(length, bool):
        return float(length)
    try:
        return duration(length).total_seconds()
    except ValueError as error:
        raise UsageError(f"{length!r}: {error}") from None

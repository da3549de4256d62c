"""What the executors are told once, by whoever puts the parts together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echosched.executor import proc
from echosched.model import Attempt, Process
from echosched.protocols import Clock, Secrets

if TYPE_CHECKING:
    from echosched.executor.function import Context

JOB_DEFAULTS = Process(umask=0o022)

ReportChild = Callable[[str, int, int], None]
OnSettled = Callable[..., None]
ExitStatus = Callable[[int | None, int], int | None]


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Program:
    """A command of our own that carries out an attempt, and what it reads from stdin."""

    argv: tuple[str, ...]
    stdin: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """The surroundings of all attempts.

    *instance* goes into the environment mark that tells this daemon's jobs from another's.
    *report_child(tag, pid, start_ticks)* is called, in any thread, right after each start of a process,
    *on_crowd(heavily=…)* says in the loop that a burst of starts begins, or is over;
    *on_settled((pid, start_ticks), …)* when settled processes have been reaped. *exit_status(pidfd, pid)*
    says how a process that is not our child ended (exit code, or minus a signal's number), ``None`` if it
    cannot. *defaults* fill what a job's :class:`~echosched.model.Process` leaves open; *environment* replaces
    single variables of the clean environment. *spawners* is how many threads start processes.
    *patience_seconds*: how long an exit code that the supervisor may still deliver is waited for. *cgroup*: a
    directory of the version 2 hierarchy, ours to write to, under which each run gets a cgroup of its own.

    *trace_path(run, attempt)* names, and makes room for, an attempt's output file, also of one whose output
    is discarded. With it HTTP calls are made by processes that outlive this program and leave their
    answer beside that file; without it they are made in this program's loop.

    *builtin* carries out a built-in job in this program; *program* may instead name a program that does it in
    a process of its own.
    """

    clock: Clock
    instance: str = "echosched"
    resolve: Secrets = _as_it_is
    report_child: ReportChild | None = None
    on_crowd: Callable[..., None] | None = None
    on_settled: OnSettled | None = None
    exit_status: ExitStatus = proc.exit_status
    defaults: Process = JOB_DEFAULTS
    environment: Mapping[str, str] | None = None
    spawners: int = 4
    patience_seconds: float = 5.0
    cgroup: str | None = None
    trace_path: Callable[[int, int], str] | None = None
    builtin: Callable[[Context], Any] | None = None
    program: Callable[[Attempt], Awaitable[Program | None]] | None = None

"""Runs the jobs that ship: ``brief`` and ``report`` in processes, ``selfheal`` and ``retention`` in the worker.

The first two read much and change nothing: a process keeps their work from the worker's loop and their memory
from its life, and outlives it. What they need of the worker goes to them on a memory file: the jobs in force
(not those in a file that nobody has reloaded), where they stand, and what has to be masked. The others act on
the worker's own things: rows that only its writer may touch, parked jobs, unsent messages, runs to start.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echosched.config.actions import BUILTINS_IN_A_PROCESS
from echosched.executor.options import Program
from echosched.model import Attempt, BuiltinAction, Job, Trigger
from echosched.version import __version__

if TYPE_CHECKING:
    from echosched.app.worker import Worker
    from echosched.builtin import Retention
    from echosched.protocols import Schedule

_CHUNK = 500

InForce = tuple[Job, "Schedule | None"]
"""A job and what it waits for, ``None`` while it waits for nothing (paused, disabled, parked)."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a built-in job's process is told first; chunks of :data:`InForce` follow."""

    name: str
    run: int
    attempt: int
    trigger: Trigger
    output_path: str
    db: str
    runs_dir: str
    reports_dir: str
    retention: Retention
    secrets: tuple[str, ...]


async def program_of(worker: Worker, attempt: Attempt) -> Program | None:
    """Return the program that carries out a built-in job, ``None`` for one that runs in the worker."""
    action = attempt.job.action
    if not isinstance(action, BuiltinAction) or action.name not in BUILTINS_IN_A_PROCESS:
        return None
    if worker.config.cluster is not None or worker.store.reason is not None:
        return None  # the file is not the whole truth: that lies elsewhere, or in the worker's memory
    paths = worker.paths
    told = Assignment(
        name=action.name,
        run=attempt.run,
        attempt=attempt.number,
        trigger=attempt.trigger,
        output_path=worker.outputs.path(attempt.run, attempt.number),
        db=paths.db,
        runs_dir=paths.runs,
        reports_dir=paths.reports,
        retention=worker.config.retention,
        secrets=worker.secrets.seen,
    )
    data = await asyncio.to_thread(_pickled, told, _in_force(worker))
    child = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shipped_child.py")
    return Program((sys.executable, "-P", child), data)


def _in_force(worker: Worker) -> list[InForce]:
    entries = worker.scheduler.roster.entries.values()
    return [(entry.job, entry.schedule if entry.waits else None) for entry in entries]


def _pickled(told: Assignment, jobs: list[InForce]) -> bytes:
    import pickle

    # In chunks: pickle does not let go of the interpreter, and a hundred thousand jobs take it a second.
    parts = [pickle.dumps(told)]
    parts += [pickle.dumps(jobs[at : at + _CHUNK]) for at in range(0, len(jobs), _CHUNK)]
    return b"".join(parts)


def slots_between(jobs: Iterable[InForce], start: datetime, end: datetime) -> Iterator[tuple[str, datetime]]:
    """Yield every slot after *start* up to *end*, as ``(job, slot)``, job by job."""
    for job, schedule in jobs:
        slot = None if schedule is None else schedule.next_after(start)
        while slot is not None and slot <= end and schedule is not None:
            yield job.name, slot
            slot = schedule.next_after(slot)


async def run_builtin(worker: Worker, context: Any) -> Mapping[str, Any]:
    """Run a built-in job with the parts of *worker*; *context* is the executor's."""
    from echosched import builtin

    action = context.attempt.job.action
    assert isinstance(action, BuiltinAction)  # noqa: S101  (the dispatcher's case)
    scheduler, paths = worker.scheduler, worker.paths
    entries = scheduler.roster.entries

    async def trigger(job: str, why: Trigger) -> int:
        number = await scheduler.trigger(job, why)
        assert number is not None  # noqa: S101  (only a claim with a slot can be refused)
        return number

    return await builtin.load(action.name)(
        builtin.Context(
            run=context.run,
            attempt=context.attempt.number,
            started_by=context.attempt.trigger,
            store=worker.store,
            clock=worker.clock,
            emit=scheduler.emit,
            log=context.write,
            jobs={name: entry.job for name, entry in entries.items()},
            next_slots=lambda start, end: slots_between(_in_force(worker), start, end),
            trigger=trigger,
            output_path=lambda run, attempt: Path(worker.outputs.path(run, attempt)),
            runs_dir=Path(paths.runs),
            reports_dir=Path(paths.reports),
            retention=worker.config.retention,
            resend=worker.messages.resend,
            unpark=scheduler.roster.unpark,
            journal=Path(paths.log),
            log_keep=worker.config.daemon.log_keep,
            redact=worker.secrets.redact,
            version=__version__,
        )
    )

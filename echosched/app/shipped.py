"""Runs the jobs that ship (``brief``, ``report``, ``selfheal``, ``retention``) inside the worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echosched.model import BuiltinAction, Trigger
from echosched.version import __version__

if TYPE_CHECKING:
    from echosched.app.worker import Worker
    from echosched.scheduler import Scheduler


async def run_builtin(worker: Worker, context: Any) -> Mapping[str, Any]:
    """Run a built-in job with the parts of *worker*; *context* is the executor's."""
    from echosched import builtin

    action = context.attempt.job.action
    assert isinstance(action, BuiltinAction)  # noqa: S101  (the dispatcher's case)
    scheduler, paths = worker.scheduler, worker.paths

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
            jobs={name: entry.job for name, entry in scheduler.roster.entries.items()},
            next_slots=lambda start, end: slots_between(scheduler, start, end),
            trigger=trigger,
            output_path=lambda run, attempt: Path(worker.outputs.path(run, attempt)),
            runs_dir=Path(paths.runs),
            reports_dir=Path(paths.reports),
            retention=worker.config.retention,
            resend=worker.resend,
            unpark=scheduler.roster.unpark,
            journal=Path(paths.log),
            log_keep=worker.config.daemon.log_keep,
            redact=worker.secrets.redact,
            version=__version__,
        )
    )


def slots_between(scheduler: Scheduler, start: datetime, end: datetime) -> Iterator[tuple[str, datetime]]:
    """Yield every slot after *start* up to *end* of all jobs in force, as ``(job, slot)``, job by job."""
    for entry in scheduler.roster.entries.values():
        slot = entry.schedule.next_after(start) if entry.waits and entry.schedule is not None else None
        while slot is not None and slot <= end and entry.schedule is not None:
            yield entry.job.name, slot
            slot = entry.schedule.next_after(slot)

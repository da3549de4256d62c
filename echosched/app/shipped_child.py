"""The process of a built-in job; run as a file. What it is told comes on stdin, what it says is the output.

How it ended is told by its answer (:mod:`echosched.executor.answer`), whoever is left to read that.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import traceback
from typing import Any

if not __package__:
    _root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if _root not in sys.path:
        sys.path.insert(0, _root)

from pathlib import Path

from echosched import builtin
from echosched.app.outputs import Outputs
from echosched.app.shipped import Assignment, InForce, slots_between
from echosched.clock import SystemClock
from echosched.config.secrets import SecretResolver
from echosched.errors import EchoschedError, ExecutionError
from echosched.events import Event
from echosched.executor import answer
from echosched.model import Result, State, Trigger
from echosched.store.sqlite import SqliteStore
from echosched.version import __version__


def main() -> int:
    """Do what stdin says; return the exit code."""
    told, jobs = _read()
    try:
        result = Result(State.SUCCEEDED, value=dict(asyncio.run(_live(told, jobs))))
    except EchoschedError as err:
        result = Result(State.FAILED, error=str(err))
    except Exception as err:  # noqa: BLE001  (the boundary around an attempt)
        traceback.print_exc()
        result = Result(State.FAILED, error=traceback.format_exception_only(err)[-1].strip())
    sys.stdout.flush()
    answer.write(told.output_path, result)
    return 0 if result.state is State.SUCCEEDED else answer.EX_FAILED


def _read() -> tuple[Assignment, list[InForce]]:
    jobs: list[InForce] = []
    with os.fdopen(0, "rb", closefd=False) as stdin:
        told: Assignment = pickle.load(stdin)  # noqa: S301  (from our worker's memory)
        while stdin.peek(1):
            jobs += pickle.load(stdin)  # noqa: S301
    return told, jobs


async def _live(told: Assignment, jobs: list[InForce]) -> Any:
    secrets = SecretResolver()
    secrets.know(told.secrets)
    outputs = Outputs(told.runs_dir)
    store = SqliteStore(told.db, read_only=True)
    await store.open()
    try:
        return await builtin.load(told.name)(
            builtin.Context(
                run=told.run,
                attempt=told.attempt,
                started_by=told.trigger,
                store=store,
                clock=SystemClock(),
                emit=_no_event,
                log=_say,
                jobs={job.name: job for job, _ in jobs},
                next_slots=lambda start, end: slots_between(jobs, start, end),
                trigger=_no_run,
                output_path=lambda run, attempt: Path(outputs.path(run, attempt)),
                runs_dir=Path(told.runs_dir),
                reports_dir=Path(told.reports_dir),
                retention=told.retention,
                redact=secrets.redact,
                version=__version__,
            )
        )
    finally:
        await store.close()


def _say(text: str) -> None:
    sys.stdout.write(text)


def _no_event(event: Event) -> None:
    raise ExecutionError(f"{type(event).__name__}: only the worker tells events")


async def _no_run(job: str, why: Trigger) -> int:
    raise ExecutionError(f"{job}: only the worker starts runs ({why})")


if __name__ == "__main__":
    sys.exit(main())

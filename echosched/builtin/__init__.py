"""The jobs that ship: ``brief``, ``report``, ``selfheal``, ``retention``.

Each is a module with ``async def run(context) -> Mapping``. ``brief`` and ``report`` mostly have a process of
their own; the others run inside the worker and never block its loop for long (files in threads, rows in
small batches with pauses). The answer is a small JSON-able mapping, the run's value. An
:class:`~echosched.errors.ExecutionError` makes the run ``failed`` with that reason. Everything a built-in job
touches comes in by its :class:`Context`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from echosched.errors import ExecutionError

if TYPE_CHECKING:
    from echosched.events import Event
    from echosched.model import Job, Trigger
    from echosched.protocols import Clock, Store

NAMES = ("brief", "report", "selfheal", "retention")

Builtin = Callable[["Context"], Awaitable[Mapping[str, Any]]]


class Retention(Protocol):
    """How long things are kept (``[retention]``); ages count from the end of a run."""

    @property
    def runs(self) -> timedelta:
        """Return the age at which ended runs go."""

    @property
    def keep(self) -> int:
        """Return how many runs of each job stay at most."""

    @property
    def output(self) -> timedelta:
        """Return the age at which outputs go."""

    @property
    def reports(self) -> timedelta:
        """Return the age at which written briefs and reports go."""


async def _nothing_to_resend() -> int:
    return 0


async def _stays_parked(_job: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a built-in job sees of the program it runs in.

    *next_slots* yields ``(job name, slot)`` for every slot after the first instant up to the second, in any
    order. *trigger* starts a run and returns its number (``NotFound``/``Conflict`` are caught).
    *resend* tries pending messages again and returns how many were delivered; *unpark* gives a parked job
    another try and tells whether it is in service again. *output_path* names the file of a run's
    attempt; *journal* and *log_keep* say which rotated journals are still wanted. *log* appends text to
    this run's output.
    """

    run: int
    attempt: int
    started_by: Trigger
    store: Store
    clock: Clock
    emit: Callable[[Event], None]
    log: Callable[[str], None]
    jobs: Mapping[str, Job]
    next_slots: Callable[[datetime, datetime], Iterable[tuple[str, datetime]]]
    trigger: Callable[[str, Trigger], Awaitable[int]]
    output_path: Callable[[int, int], Path]
    runs_dir: Path
    reports_dir: Path
    retention: Retention
    resend: Callable[[], Awaitable[int]] = _nothing_to_resend
    unpark: Callable[[str], Awaitable[bool]] = _stays_parked
    journal: Path | None = None
    log_keep: int = 7
    redact: Callable[[str], str] = field(default=str)
    version: str = ""


def load(name: str) -> Builtin:
    """Return the function of the built-in job *name*; raises ``ExecutionError`` for a name that is none."""
    if name not in NAMES:
        raise ExecutionError(f"builtin: {name!r} is none (there are: {', '.join(NAMES)})")
    function: Builtin = import_module(f"echosched.builtin.{name}").run
    return function

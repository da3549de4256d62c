"""Which executor carries out which action."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from echosched.errors import ExecutionError
from echosched.executor.command import CommandExecutor
from echosched.executor.function import CallableExecutor
from echosched.executor.options import ExecutorOptions
from echosched.model import (
    Attempt,
    BuiltinAction,
    CallableAction,
    CommandAction,
    HttpAction,
    Job,
    ProcessIdentity,
    PythonAction,
    Result,
)
from echosched.protocols import Execution, Executor

if TYPE_CHECKING:
    from collections.abc import Callable

    from echosched.executor.switchboard import Switchboard


class ActionExecutor:
    """Carries out every kind of action; satisfies :class:`echosched.protocols.Executor`.

    Parts are made when first used.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options
        self.processes = CommandExecutor(options)
        self._http: Executor | None = None
        self._switchboard: Switchboard | None = None
        self._callables: CallableExecutor | None = None

    def warm(self) -> None:
        """Make ready what starts commands (see :meth:`CommandExecutor.warm`)."""
        self.processes.warm()

    async def warm_calls(self) -> None:
        """Make ready what makes HTTP calls, if processes of their own do."""
        if self.options.trace_path is not None:
            await self._switch().warm()

    async def start(self, attempt: Attempt) -> Execution:
        """Start *attempt* by what its job does; raises ``ExecutionError`` with the reason if it cannot be."""
        match attempt.job.action:
            case CommandAction() | PythonAction():
                return await self.processes.start(attempt)
            case HttpAction() if self.options.trace_path is not None:
                return await self._switch().start(attempt)
            case HttpAction():
                return await self._http_executor().start(attempt)
            case CallableAction(function):
                return await self._callable_executor().begin(attempt, function)
            case BuiltinAction(name):
                program = None if self.options.program is None else await self.options.program(attempt)
                if program is not None:
                    return await self.processes.start(self._traced(attempt), program)
                if self.options.builtin is None:
                    raise ExecutionError(f"builtin {name}: this program has no built-in jobs")
                return await self._callable_executor().begin(attempt, self.options.builtin, give_context=True)

    def prepare(
        self,
        attempt: Attempt,
        begun: Callable[[Execution], None],
        refused: Callable[[Exception], None],
        ended: Callable[[Result], None],
        *,
        early: bool,
    ) -> Callable[[], None] | None:
        """Return what starts *attempt* (:class:`~echosched.protocols.Launcher`): commands and functions."""
        if not isinstance(attempt.job.action, CommandAction | PythonAction):
            return None
        return self.processes.prepare(attempt, begun, refused, ended, early=early)

    def rouse(self) -> None:
        """Let what starts commands be awake: a start comes in a moment."""
        self.processes.rouse()

    def adopt(self, attempt: Attempt, process: ProcessIdentity) -> Execution:
        """Watch a process that an earlier worker started (see :meth:`CommandExecutor.adopt`)."""
        return self.processes.adopt(attempt, process)

    def past(self, attempt: Attempt) -> Execution | None:
        """Return the execution of an attempt that is over and left an answer, ``None`` where there is none."""
        return self.processes.past(attempt)

    def is_traced(self, job: Job) -> bool:
        """Tell whether attempts of *job* make an output file, by which can be seen that they began."""
        own_process = isinstance(job.action, HttpAction) and self.options.trace_path is not None
        return job.policy.output or own_process

    def child_exit(self, tag: str, pid: int, start_ticks: int, status: int) -> None:
        """Take an exit from the supervisor (see :meth:`CommandExecutor.child_exit`)."""
        self.processes.child_exit(tag, pid, start_ticks, status)

    def find_all(self) -> dict[str, list[ProcessIdentity]]:
        """Return all living processes of this instance by attempt tag (see :meth:`CommandExecutor.find_all`)."""
        return self.processes.find_all()

    async def close(self) -> None:
        """Release everything; processes run on."""
        parts = [
            part
            for part in (self.processes, self._http, self._switchboard, self._callables)
            if part is not None
        ]
        await asyncio.gather(*(part.close() for part in parts))

    def _http_executor(self) -> Executor:
        if self._http is None:
            from echosched.executor.http import HttpExecutor

            self._http = HttpExecutor(clock=self.options.clock, resolve=self.options.resolve)
        return self._http

    def _traced(self, attempt: Attempt) -> Attempt:
        if attempt.output_path is not None or self.options.trace_path is None:
            return attempt
        return replace(attempt, output_path=self.options.trace_path(attempt.run, attempt.number))

    def _switch(self) -> Switchboard:
        if self._switchboard is None:
            from echosched.executor.switchboard import Switchboard

            self._switchboard = Switchboard(self.processes)
        return self._switchboard

    def _callable_executor(self) -> CallableExecutor:
        if self._callables is None:
            self._callables = CallableExecutor(clock=self.options.clock)
        return self._callables

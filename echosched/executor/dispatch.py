"""Which executor carries out which action."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from echosched.errors import ExecutionError
from echosched.executor import proc
from echosched.executor.command import (
    DEFAULT_PROCESS,
    CommandExecutor,
    ExitStatus,
    OnSettled,
    ReportChild,
)
from echosched.executor.function import CallableExecutor, Context
from echosched.model import (
    Attempt,
    BuiltinAction,
    CallableAction,
    CommandAction,
    HttpAction,
    Process,
    ProcessIdentity,
    PythonAction,
)
from echosched.protocols import Clock, Execution, Executor, Secrets


class ActionExecutor:
    """Carries out every kind of action; satisfies :class:`echosched.protocols.Executor`.

    *builtin* is called (or awaited) with a :class:`~echosched.executor.function.Context` for built-in
    jobs; its rooms are above this one. The other arguments are those of
    :class:`~echosched.executor.command.CommandExecutor`. Parts are made when first used.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        instance: str = "echosched",
        resolve: Secrets = lambda text: text,
        report_child: ReportChild | None = None,
        on_settled: OnSettled | None = None,
        exit_status: ExitStatus = proc.exit_status,
        defaults: Process = DEFAULT_PROCESS,
        environment: dict[str, str] | None = None,
        spawners: int = 2,
        patience_seconds: float = 5.0,
        cgroup: str | None = None,
        builtin: Callable[[Context], Any] | None = None,
    ) -> None:
        self.processes = CommandExecutor(
            clock=clock,
            instance=instance,
            resolve=resolve,
            report_child=report_child,
            on_settled=on_settled,
            exit_status=exit_status,
            defaults=defaults,
            environment=environment,
            spawners=spawners,
            patience_seconds=patience_seconds,
            cgroup=cgroup,
        )
        self._clock = clock
        self._resolve = resolve
        self._builtin = builtin
        self._http: Executor | None = None
        self._callables: CallableExecutor | None = None

    def warm(self) -> None:
        """Make ready what starts commands (see :meth:`CommandExecutor.warm`)."""
        self.processes.warm()

    async def start(self, attempt: Attempt) -> Execution:
        """Start *attempt* by what its job does; raises ``ExecutionError`` with the reason if it cannot be."""
        match attempt.job.action:
            case CommandAction() | PythonAction():
                return await self.processes.start(attempt)
            case HttpAction():
                return await self._http_executor().start(attempt)
            case CallableAction(function):
                return await self._callable_executor().begin(attempt, function)
            case BuiltinAction(name):
                if self._builtin is None:
                    raise ExecutionError(f"builtin {name}: this program has no built-in jobs")
                return await self._callable_executor().begin(attempt, self._builtin, give_context=True)

    def adopt(self, attempt: Attempt, process: ProcessIdentity) -> Execution:
        """Watch a process that an earlier worker started (see :meth:`CommandExecutor.adopt`)."""
        return self.processes.adopt(attempt, process)

    def child_exit(self, tag: str, pid: int, start_ticks: int, status: int) -> None:
        """Take an exit from the supervisor (see :meth:`CommandExecutor.child_exit`)."""
        self.processes.child_exit(tag, pid, start_ticks, status)

    def find(self, attempt: Attempt) -> ProcessIdentity | None:
        """Return a living process of *attempt* by its mark (see :meth:`CommandExecutor.find`)."""
        return self.processes.find(attempt)

    def find_all(self) -> dict[str, list[ProcessIdentity]]:
        """Return all living processes of this instance by attempt tag (see :meth:`CommandExecutor.find_all`)."""
        return self.processes.find_all()

    async def close(self) -> None:
        """Release everything; processes run on."""
        parts = [part for part in (self.processes, self._http, self._callables) if part is not None]
        await asyncio.gather(*(part.close() for part in parts))

    def _http_executor(self) -> Executor:
        if self._http is None:
            from echosched.executor.http import HttpExecutor

            self._http = HttpExecutor(clock=self._clock, resolve=self._resolve)
        return self._http

    def _callable_executor(self) -> CallableExecutor:
        if self._callables is None:
            self._callables = CallableExecutor(clock=self._clock)
        return self._callables

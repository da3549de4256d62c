"""HTTP calls made in this program's loop, which end with it (:mod:`echosched.executor.switchboard` makes others)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echosched.errors import ExecutionError
from echosched.executor import output
from echosched.executor.exchange import Exchange, Request, open_session, resolve
from echosched.executor.secrets import Redactor
from echosched.executor.task import TaskExecution, in_thread
from echosched.model import Attempt, HttpAction
from echosched.protocols import Clock, Secrets

if TYPE_CHECKING:
    import aiohttp


class HttpExecutor:
    """Makes the calls of :class:`~echosched.model.HttpAction` attempts; they have no process."""

    def __init__(self, *, clock: Clock, resolve: Secrets = lambda text: text) -> None:
        self._clock = clock
        self._resolve = resolve
        self._session: aiohttp.ClientSession | None = None

    async def start(self, attempt: Attempt) -> TaskExecution:
        """Begin the call; raises ``ExecutionError`` for what is wrong before anything is sent."""
        action = attempt.job.action
        if not isinstance(action, HttpAction):
            raise ExecutionError(f"{type(action).__name__} is not an HTTP call")
        redactor = Redactor(self._resolve)
        # References and certificates are files, on whatever disk.
        request, failure = await in_thread("http", lambda: Request(resolve(action, redactor)))
        if failure is not None:
            raise failure
        if self._session is None:
            self._session = open_session()
        descriptor = None if attempt.output_path is None else output.create(attempt.output_path)
        call = Exchange(self._session, request, redactor, descriptor, attempt.job.policy.output_limit)
        return TaskExecution(attempt, call.run(), self._clock.now())

    async def close(self) -> None:
        """Close the session; calls under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

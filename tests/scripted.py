"""Attempts without a process, for tests of whoever starts them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from echosched.model import Attempt, ProcessIdentity, Result, State


class ScriptedExecution:
    """An attempt that ends when told to; *result* ends it at once."""

    def __init__(
        self,
        attempt: Attempt,
        started_at: datetime,
        result: Result | None,
        process: ProcessIdentity | None = None,
    ) -> None:
        self.attempt = attempt
        self.started_at = started_at
        self.process = process
        self.settled = False
        self.cancelled: str | None = None
        self._result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if result is not None:
            self._result.set_result(result)

    def end(self, state: State = State.SUCCEEDED, exit_code: int | None = 0) -> None:
        """End it so."""
        self._result.set_result(Result(state, exit_code))

    async def wait(self) -> Result:
        """Return how it ended, once it has."""
        return await self._result

    def cancel(self, reason: str, *, state: State, kill_after: timedelta) -> None:
        """End it in *state*, and remember the reason."""
        self.cancelled = reason
        if not self._result.done():
            self._result.set_result(Result(state, error=reason))

    def settle(self) -> None:
        """Note that its end was recorded."""
        self.settled = True

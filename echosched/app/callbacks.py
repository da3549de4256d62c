"""Events as calls of whoever asked for them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

from echosched import events

log = logging.getLogger(__name__)


class Callbacks:
    """The event sink behind :meth:`Scheduler.on`; also remembers which retries wait for time to pass."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Call nobody yet; *spawn* carries on what a coroutine function begins."""
        self.listeners: list[tuple[tuple[type[Any], ...], Callable[[Any], object]]] = []
        self.retries: dict[int, datetime] = {}
        self._spawn = spawn

    def emit(self, event: events.Event) -> None:
        """Call whoever wants to know; each has a boundary of its own, so that one does not deafen the next."""
        if isinstance(event, events.RunRetry):
            self.retries[event.run] = event.retry_at
        elif isinstance(event, events.RunStart | events.RunEnd):
            self.retries.pop(event.run, None)
        for kinds, function in self.listeners:
            if isinstance(event, kinds):
                self._call(function, event)

    def _call(self, function: Callable[[Any], object], event: events.Event) -> None:
        try:
            answer = function(event)
        except Exception:
            log.exception("a callback failed on %s", event.event)
            return
        if isinstance(answer, Awaitable):
            self._spawn(_await(answer))


async def _await(answer: Awaitable[object]) -> None:
    await answer

"""Shared reads: many pages that ask the same thing at the same moment cost one question.

An answer is at most *ttl_seconds* old, which nobody sees; any change made through this server makes it
forget at once, so that whoever pressed a button sees what it did.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from echosched.protocols import Clock
from echosched.web.backend import Backend

_KEPT = 64


class SharedReads:
    """Asks the backend, once for all who want to know."""

    def __init__(self, backend: Backend, clock: Clock, ttl_seconds: float = 0.5) -> None:
        self._backend = backend
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._kept: OrderedDict[tuple[Any, ...], tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def status(self) -> Any:
        """Return ``status --json``."""
        return await self._shared(("status",), self._backend.status)

    async def ask(self, op: str, /, **args: Any) -> Any:
        """Return the answer to an operation that only reads; its arguments must be hashable."""
        key = (op, *sorted(args.items()))
        return await self._shared(key, lambda: self._backend.call(op, **args))

    def forget(self) -> None:
        """Something has changed: answers on their way still reach those who wait, nobody else."""
        self._kept.clear()

    async def _shared(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[Any]]) -> Any:
        now = self._clock.monotonic()
        since, answer = self._kept.get(key, (0.0, None))
        # An answer that is still on its way is shared however long it takes.
        if answer is None or (answer.done() and now - since > self._ttl_seconds):
            answer = asyncio.ensure_future(ask())
            # Somebody is told below; if all of them have gone, nobody needs to hear of a failure.
            answer.add_done_callback(lambda future: future.cancelled() or future.exception())
            answer.add_done_callback(lambda future: self._landed(key, future))
            self._kept[key] = (now, answer)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        # Shielded: one client that leaves must not take the answer from the others.
        return await asyncio.shield(answer)

    def _landed(self, key: tuple[Any, ...], answer: asyncio.Future[Any]) -> None:
        entry = self._kept.get(key)
        if entry is None or entry[1] is not answer:
            return
        if answer.cancelled() or answer.exception() is not None:
            del self._kept[key]  # a failure is never kept
        else:
            self._kept[key] = (self._clock.monotonic(), answer)

"""Shared reads: many pages that ask the same thing at the same moment cost one question.

An answer is kept for *ttl_seconds*, and one that was dear for longer, so that no crowd can keep the
worker busy with more than a twentieth of its time for one question. Any change made through this server
makes it forget at once, so that whoever pressed a button sees what it did.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from echosched.protocols import Clock
from echosched.web.backend import Backend

_KEPT = 64
_COST = 20.0
_LONGEST_SECONDS = 2.5
"""No answer is kept longer; the page asks once more so long after the last event (its TRAILING_MS)."""


class Same:
    """A part of a key that is equal to itself only: what was made of one answer is not for the next one."""

    __slots__ = ("_what",)

    def __init__(self, what: object) -> None:
        self._what = what  # kept, so that nothing else can get its identity meanwhile

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other._what is self._what

    def __hash__(self) -> int:
        return id(self._what)


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

    async def share(self, key: tuple[Any, ...], make: Callable[[], Awaitable[Any]]) -> Any:
        """Return what *make* makes, or made a moment ago for the same *key*."""
        return await self._shared(key, make)

    def forget(self) -> None:
        """Something has changed: answers on their way still reach those who wait, nobody else."""
        self._kept.clear()

    async def _shared(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[Any]]) -> Any:
        now = self._clock.monotonic()
        until, answer = self._kept.get(key, (0.0, None))
        # An answer that is still on its way is shared however long it takes.
        if answer is None or (answer.done() and now > until):
            answer = asyncio.ensure_future(ask())
            # Somebody is told below; if all of them have gone, nobody needs to hear of a failure.
            answer.add_done_callback(lambda future: future.cancelled() or future.exception())
            answer.add_done_callback(lambda future: self._landed(key, future, now))
            # What nobody may have any more goes now: answers can be large.
            for old in [name for name, (end, kept) in self._kept.items() if kept.done() and now > end]:
                del self._kept[old]
            self._kept[key] = (now, answer)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        # Shielded: one client that leaves must not take the answer from the others.
        return await asyncio.shield(answer)

    def _landed(self, key: tuple[Any, ...], answer: asyncio.Future[Any], asked: float) -> None:
        entry = self._kept.get(key)
        if entry is None or entry[1] is not answer:
            return
        if answer.cancelled() or answer.exception() is not None:
            del self._kept[key]  # a failure is never kept
        else:
            now = self._clock.monotonic()
            kept_seconds = min(max(self._ttl_seconds, (now - asked) * _COST), _LONGEST_SECONDS)
            self._kept[key] = (now + kept_seconds, answer)

"""The queue of one target: what waits, what is under way, when the next try may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from echosched.notify.decide import Target
from echosched.notify.message import Message

_MOST_PENDING = 1000
_MOST_IN_SUMMARY = 50
_MOST_PINGS = 4  # for each job: an older one says nothing that matters any more


class Settings(Target, Protocol):
    """A ``[notify.NAME]`` with its options."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the options of its kind."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast messages go. Seconds; *retry* doubles from its first to its second value."""

    settle: float = 2.0
    calm: float = 60.0
    retry: tuple[float, float] = (15.0, 3600.0)
    leave: float = 3.0


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """The target that a job's own ``healthcheck`` is."""

    name: str
    options: Mapping[str, Any]
    kind: str = "healthchecks"
    on: tuple[str, ...] = ()
    default: bool = False


@dataclass(slots=True)
class Queue:
    """Messages of one target, oldest first. *retry_at* and *calm_until* are on the monotonic clock.

    Until *retry_at* nothing is sent (back-off); until *calm_until* only what is sent alone.
    """

    target: Settings
    waiting: deque[Message] = field(default_factory=deque)
    sending: list[Message] = field(default_factory=list)
    retry_at: float = 0.0
    calm_until: float = 0.0
    failures: int = 0
    reason: str | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None

    def add(self, message: Message) -> bool:
        """Take *message*; ``False`` when the oldest one had to go for it.

        One that is only *again* replaces its forerunner while that waits, and is dropped otherwise.
        """
        if message.again:
            for index, known in enumerate(self.waiting):
                if (known.job, known.occasion) == (message.job, message.occasion):
                    self.waiting[index] = replace(message, again=False)
            return True
        if message.is_ping:
            pings = [known for known in self.waiting if known.job == message.job]
            for old in pings[: max(0, len(pings) - _MOST_PINGS + 1)]:
                self.waiting.remove(old)
        self.waiting.append(message)
        if len(self.waiting) <= _MOST_PENDING:
            return True
        self.waiting.popleft()
        return False

    def delay(self, now: float) -> float:
        """Return how many seconds from *now* the next delivery may be tried."""
        wait = self.retry_at - now
        if not any(message.is_alone for message in self.waiting):
            wait = max(wait, self.calm_until - now)
        return max(0.0, wait)

    def hurry(self) -> None:
        """Let everything go at once, and tell whoever waits."""
        self.retry_at = self.calm_until = 0.0
        self.wake.set()

    def take(self, now: float) -> list[Message]:
        """Take the next message, or all that go into one summary with it."""
        alone = next((message for message in self.waiting if message.is_alone), None)
        if alone is not None and (self.waiting[0] is alone or now < self.calm_until):
            self.waiting.remove(alone)
            self.sending = [alone]
            return self.sending
        together = [message for message in self.waiting if not message.is_alone][:_MOST_IN_SUMMARY]
        chosen = {id(message) for message in together}
        self.waiting = deque(message for message in self.waiting if id(message) not in chosen)
        self.sending = together
        return together

    def put_back(self) -> None:
        """Let what is under way wait again, in its old place."""
        self.waiting.extendleft(reversed(self.sending))
        self.sending = []

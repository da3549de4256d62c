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
    """Messages of one target, oldest first; *not_before* is on the monotonic clock."""

    target: Settings
    waiting: deque[Message] = field(default_factory=deque)
    sending: list[Message] = field(default_factory=list)
    not_before: float = 0.0
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

    def take(self) -> list[Message]:
        """Take the next message, or all that go into one summary with it."""
        first = self.waiting.popleft()
        self.sending = [first]
        if first.is_ping or first.occasion == "output":
            return self.sending
        rest: list[Message] = []
        while self.waiting:
            message = self.waiting.popleft()
            together = message.occasion != "output" and len(self.sending) < _MOST_IN_SUMMARY
            (self.sending if together else rest).append(message)
        self.waiting.extend(rest)
        return self.sending

    def put_back(self) -> None:
        """Let what is under way wait again, in its old place."""
        self.waiting.extendleft(reversed(self.sending))
        self.sending = []

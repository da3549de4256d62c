"""The notifier: an event sink that keeps messages until they are delivered.

One queue a target. Messages to people wait a moment (so that a burst becomes one summary), are
written down (one note in the store), sent, and struck out; a failed delivery is tried again with
back-off, also by the next worker or daemon. Pings go out at once and are written down only after a failure.
At least once: a crash between delivery and striking out repeats a message (with the same Message-ID).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echosched import events
from echosched.errors import EchoschedError
from echosched.notify import DeliveryError, output
from echosched.notify.decide import Decider, healthcheck_job
from echosched.notify.message import Letter, Message, letter
from echosched.notify.queue import Healthcheck, Pace, Queue, Settings

if TYPE_CHECKING:
    from echosched.model import Job
    from echosched.protocols import Clock, Secrets

log = logging.getLogger(__name__)

NOTE = "notify"


class Notifier:
    """An :class:`~echosched.protocols.EventSink` that tells people and watchers. Belongs to the loop's thread.

    *get_note*/*set_note* are a store's; *emit* takes the ``notify_failed`` events; *output_path* names the
    file of an attempt; *resolve* and *redact* are the secrets' two sides; *next_slot* answers for ``overdue``.
    """

    def __init__(
        self,
        targets: Mapping[str, Settings],
        jobs: Mapping[str, Job],
        *,
        clock: Clock,
        emit: Callable[[events.Event], None],
        get_note: Callable[[str], Awaitable[str | None]],
        set_note: Callable[[str, str | None], Awaitable[None]],
        output_path: Callable[[int, int], str | Path],
        resolve: Secrets = str,
        redact: Callable[[str], str] = str,
        next_slot: Callable[[str], datetime | None] | None = None,
        host: str | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._clock = clock
        self._tell = emit
        self._get_note = get_note
        self._set_note = set_note
        self._output_path = output_path
        self._resolve = resolve
        self._redact = redact
        self._host = host or os.uname().nodename
        self._pace = pace or Pace()
        self._targets = dict(targets)
        self._jobs = jobs
        self._decider = Decider(self._targets.values(), jobs, next_slot=next_slot)
        self._queues: dict[str, Queue] = {}
        self._kept_changes = 0
        self._dirty = False
        self._saving = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: datetime | None = None
        self._forgetful = False
        self._begun = False
        self._closed = False

    @property
    def pending(self) -> int:
        """Return how many messages are not delivered yet."""
        return sum(len(queue.waiting) + len(queue.sending) for queue in self._queues.values())

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Take up what an earlier worker left, and begin to deliver. What came in before is delivered too."""
        try:
            text = await self._get_note(NOTE)
        except EchoschedError as err:
            log.warning("pending messages cannot be read: %s", err)
            text = None
        if text:
            self._restore(text)
        self._begun = True
        if self.pending:
            self._keep()
        for queue in self._queues.values():
            self._serve(queue)

    def reload(self, targets: Mapping[str, Settings], jobs: Mapping[str, Job]) -> None:
        """Take a new configuration. Messages of targets that are gone are dropped, those of others go on."""
        self._targets, self._jobs = dict(targets), jobs
        self._decider.configure(self._targets.values(), jobs)
        for name in list(self._queues):
            target = self._target(name)
            queue = self._queues[name]
            if target is None:
                if queue.task is not None:
                    queue.task.cancel()
                del self._queues[name]
            else:
                queue.target = target
                queue.hurry()  # perhaps it is mended

    async def resend(self) -> int:
        """Try everything that waits now, whatever its back-off; return how many messages were delivered."""
        delivered = 0
        for queue in list(self._queues.values()):
            async with queue.lock:
                queue.retry_at = queue.calm_until = 0.0
                while queue.waiting and (sent := await self._attempt(queue)):
                    delivered += sent
            queue.wake.set()
        return delivered

    async def close(self) -> None:
        """One last, short try; what is left is written down for the next worker."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            queue.hurry()
        tasks = {queue.task for queue in self._queues.values() if queue.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=self._pace.leave)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._saves, return_exceptions=True)
        self._dirty = True
        await self._save()

    # ── in ────────────────────────────────────────────────────────────────────────────────────

    def emit(self, event: events.Event) -> None:
        """Take *event*; the messages it makes are sent soon."""
        for message in self._decider.see(event):
            self._enqueue(message)
        if self._decider.changes != self._kept_changes:
            self._keep()
        if self._decider.next_due() != self._armed_for:
            self._arm()

    def _enqueue(self, message: Message) -> None:
        queue = self._queue(message.target)
        if queue is None:
            return
        if message.why:
            message = replace(message, why=self._redact(message.why))
        if not (message.again or message.is_alone or queue.waiting):
            queue.calm_until = max(queue.calm_until, self._clock.monotonic() + self._pace.settle)
        if not queue.add(message):
            self._failed(queue, "too many messages wait; the oldest was dropped", final=True)
        if self._begun:
            if not message.is_ping:
                self._keep()
            queue.wake.set()
            self._serve(queue)

    def _queue(self, name: str) -> Queue | None:
        queue = self._queues.get(name)
        if queue is None:
            target = self._target(name)
            if target is None:
                return None
            queue = self._queues[name] = Queue(target)
        return queue

    def _target(self, name: str) -> Settings | None:
        job = healthcheck_job(name)
        if job is None:
            return self._targets.get(name)
        known = self._jobs.get(job)
        if known is None or not known.policy.healthcheck:
            return None
        return Healthcheck(f"healthcheck of {job}", {"url": known.policy.healthcheck})

    def _arm(self) -> None:
        """Set the one timer for what the passing of time makes (slow, overdue)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._armed_for = self._decider.next_due()
        if at is not None and not self._closed:
            wait = max(0.0, (at - self._clock.now()).total_seconds())
            # A day at most: the wall clock may be set meanwhile.
            self._timer = asyncio.get_running_loop().call_later(min(wait, 86400.0), self._due)

    def _due(self) -> None:
        self._timer = None
        for message in self._decider.due(self._clock.now()):
            self._enqueue(message)
        self._arm()

    # ── out ───────────────────────────────────────────────────────────────────────────────────

    def _serve(self, queue: Queue) -> None:
        if queue.waiting and not self._closed and (queue.task is None or queue.task.done()):
            queue.task = asyncio.get_running_loop().create_task(self._deliver(queue))

    async def _deliver(self, queue: Queue) -> None:
        while queue.waiting and not (self._closed and queue.failures):
            while (wait := queue.delay(self._clock.monotonic())) > 0:
                queue.wake.clear()
                try:
                    async with asyncio.timeout(wait):
                        await queue.wake.wait()
                except TimeoutError:
                    break
            async with queue.lock:
                # Somebody else (resend) may have had its turn while this one waited for the lock.
                if queue.waiting and queue.delay(self._clock.monotonic()) <= 0:
                    await self._attempt(queue)

    async def _attempt(self, queue: Queue) -> int:
        """Try to deliver the first message, or a summary of several; return how many were delivered."""
        batch = queue.take(self._clock.monotonic())
        try:
            await self._save()
            words = await self._words(batch)
            name = f"echosched.notify.{queue.target.kind}"
            kind: Any = await asyncio.to_thread(importlib.import_module, name)
            await kind.send(words, queue.target.options, self._resolve)
        except EchoschedError as err:
            final = isinstance(err, DeliveryError) and err.final
            if final:
                queue.sending = []
            else:
                queue.put_back()
            self._failed(queue, str(err), final=final)
            await self._save()
            return 0
        except asyncio.CancelledError:
            queue.put_back()
            raise
        except Exception as err:
            log.exception("notify %s: the delivery broke", queue.target.name)
            queue.put_back()
            self._failed(queue, f"internal error: {type(err).__name__}")
            return 0
        queue.sending = []
        queue.failures, queue.reason = 0, None
        queue.retry_at = 0.0
        if not batch[0].is_alone:
            queue.calm_until = self._clock.monotonic() + self._pace.calm
        if not batch[0].is_ping:
            self._dirty = True
        await self._save()
        return len(batch)

    def _failed(self, queue: Queue, reason: str, *, final: bool = False) -> None:
        """Note a failed delivery; it is told once for each reason, not once for each try."""
        first, most = self._pace.retry
        queue.retry_at = self._clock.monotonic() + min(most, first * 2.0 ** min(queue.failures, 30))
        queue.failures += 1
        reason = self._redact(reason)
        self._dirty = True
        if final or reason != queue.reason:
            queue.reason = reason
            name = queue.target.name
            self._tell(events.NotifyFailed(ts=self._clock.now(), target=name, reason=reason, final=final))

    async def _words(self, batch: list[Message]) -> Letter:
        def read() -> dict[int, str]:
            found = {}
            for message in batch:
                if message.run is not None and message.output_bytes and message.occasion != "success":
                    part = output.whole if message.occasion == "output" else output.tail
                    found[message.run] = part(self._output_path(message.run, message.attempt), self._redact)
            return found

        return letter(batch, await asyncio.to_thread(read), host=self._host)

    # ── memory ────────────────────────────────────────────────────────────────────────────────

    def _keep(self) -> None:
        self._dirty = True
        self._kept_changes = self._decider.changes
        if self._begun and not self._closed:
            task = asyncio.get_running_loop().create_task(self._save())
            self._saves.add(task)
            task.add_done_callback(self._saves.discard)

    async def _save(self) -> None:
        async with self._saving:
            if not self._dirty or not self._begun:
                return
            self._dirty = False
            try:
                await self._set_note(NOTE, self._document())
            except EchoschedError as err:
                self._dirty = True  # with the next change, and at the end
                if not self._forgetful:
                    log.warning("pending messages cannot be written down: %s", err)
                self._forgetful = True
            else:
                self._forgetful = False

    def _document(self) -> str | None:
        pending = [
            message.as_dict()
            for queue in self._queues.values()
            for message in (*queue.sending, *queue.waiting)
            if not message.is_ping or queue.failures
        ]
        memory = self._decider.memory()
        if not pending and not any(memory.values()):
            return None
        return json.dumps({"pending": pending, **memory}, separators=(",", ":"))

    def _restore(self, text: str) -> None:
        try:
            document = json.loads(text)
            messages = [Message.from_dict(item) for item in document.get("pending", [])]
            self._decider.remember(document)
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            log.warning("pending messages of an earlier daemon are not understood: %s", err)
            return
        for message in reversed(messages):
            queue = self._queue(message.target)
            if queue is not None:
                queue.waiting.appendleft(message)

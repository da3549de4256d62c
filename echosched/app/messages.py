"""The notifier of the daemon: made when a configuration first wants one, since most daemons never do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echosched.notify import wanted

if TYPE_CHECKING:
    from echosched.app.worker import Worker
    from echosched.config.settings import Config
    from echosched.notify import Notifier


class Messages:
    """What *worker* has to say to people, if anybody wants to hear it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._notifier: Notifier | None = None

    @staticmethod
    def warm(config: Config) -> None:
        """Import now, while nothing waits, what *config* will need."""
        if wanted(config.notify, config.jobs):
            from echosched.notify import Notifier  # noqa: F401  (the import is what takes time)

    async def follow(self, config: Config) -> None:
        """Send what *config* wants sent from here on."""
        if self._notifier is not None:
            self._notifier.reload(config.notify, config.jobs)
        elif wanted(config.notify, config.jobs):
            self._notifier = self._made(config)
            self._worker.scheduler.sinks.append(self._notifier)
            await self._notifier.start()

    def _made(self, config: Config) -> Notifier:
        from echosched.notify import Notifier

        worker = self._worker
        roster = worker.scheduler.roster
        return Notifier(
            config.notify,
            config.jobs,
            clock=worker.clock,
            emit=worker.emit,
            get_note=worker.store.get_note,
            set_note=worker.store.set_note,
            output_path=worker.outputs.path,
            resolve=worker.secrets,
            redact=worker.secrets.redact,
            next_slot=lambda name: roster.entries[name].slot if name in roster.entries else None,
        )

    async def resend(self) -> int:
        """Send again the messages that could not be delivered; return how many went."""
        return 0 if self._notifier is None else await self._notifier.resend()

    async def close(self) -> None:
        """Send nothing more; what is under way gets its time."""
        if self._notifier is not None:
            await self._notifier.close()

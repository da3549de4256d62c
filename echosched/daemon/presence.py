"""How a process without a supervisor shows others that it is there, and how it ended.

The same three files as a supervisor's, so that ``status``, ``stop`` and the next start need no other eyes: the
locked pidfile, the state file, the beat. For a worker alone (:mod:`echosched.daemon.solo`) and for the web server in
the foreground, whoever started it. Rotation and the watchdog are not part of it: those need somebody beside the
process.
"""

from __future__ import annotations

import os

from echosched.daemon import lock, logfiles, privileges
from echosched.daemon.beat import Beat, interval_for
from echosched.daemon.children import Children
from echosched.daemon.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.settings import Settings
    from echosched.daemon.wire import Child


class Presence:
    """One process's presence, from here to :meth:`end`. A context manager: an exception is how it ended."""

    def __init__(self, settings: Settings, locks: lock.HeldLocks) -> None:
        """Begin a daemon's life under *locks*, which this process holds. Raises ``OSError`` for the beat file."""
        self._owner = os.getpid()
        self._locks = locks
        self._state = settings.paths.state
        self._beat_path = settings.paths.beat
        self._program = settings.program
        self._complaints: set[str] = set()
        self._record, left = Record.begin(settings)
        self.children: list[Child] = left
        """Ended children of an earlier daemon that nobody has written down; kept in the state until the end."""
        self._record.document["children"] = Children(left).as_list()
        self.beat = Beat(self._beat_path)
        self.beat.reset(self._owner, interval_for(settings.watchdog))
        self._save()

    @classmethod
    def take(cls, settings: Settings) -> Presence | None:
        """Take the pidfile of *settings* and begin; ``None`` when another process has it. Raises ``OSError``."""
        privileges.prepare_directories(settings, None)
        path = settings.paths.pidfile
        descriptor = lock.take_patiently(path)
        if descriptor is None:
            return None
        try:
            lock.write_pid(descriptor, os.getpid())
            return cls(settings, lock.HeldLocks([[path, descriptor]]))
        except BaseException:
            lock.remove(path, descriptor, os.getpid())
            os.close(descriptor)
            raise

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            self.end("clean", 0)
        else:
            self.end("failed", 1, f"{type(error).__name__}: {error}")

    @property
    def is_ready(self) -> bool:
        """Tell whether :meth:`ready` was said."""
        return bool(self._record.document["ready_micros"])

    def ready(self) -> None:
        """Note that this process is able to serve."""
        self._record.ready()
        self._save()

    def stopping(self, reason: str | None) -> None:
        """Note that it was asked to stop, by a signal of that name or otherwise; the first time counts."""
        if self._record.document["stopping"] is None:
            self._record.stopping(reason)
            self._save()

    def keep(self) -> None:
        """Beat, and make anew what somebody removed: systemd takes a unit's directory away with all that is in it."""
        self.beat.beat()
        self._locks.keep(self._complain_once)

    def not_upgraded(self, why: str) -> None:
        """Note that an upgrade was asked for and did not happen."""
        self._record.upgraded(why)
        self._save()

    def end(self, how: str, exit_code: int, detail: str | None = None) -> None:
        """Note the end and remove pidfile and beat; the locks go with the process."""
        if os.getpid() != self._owner:  # a forked child on its way out
            return
        self._record.ended(how, exit_code, detail, [])
        self._save()
        if not self.beat.has_bad_times:
            # Else the next worker must learn of slots that this one ran and could not write down.
            try:
                os.unlink(self._beat_path)
            except OSError:
                pass
        self._locks.remove()

    def _save(self) -> None:
        try:
            self._record.save(self._owner, self.beat.look())
        except OSError as error:
            self._complain_once(f"{self._state}: {error.strerror}")

    def _complain_once(self, text: str) -> None:
        if text not in self._complaints:
            self._complaints.add(text)
            logfiles.complain(text, self._program)


__all__ = ["Presence"]

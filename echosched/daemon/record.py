"""The supervisor's record of its own daemon: what goes into the state file, and when."""

from __future__ import annotations

from echosched.daemon import instant, statefile
from echosched.daemon.beat import Pulse, read_pulse
from echosched.daemon.wire import Child
from echosched.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.daemon.settings import Settings


class Record:
    """The state document of a running daemon, kept in memory and written at each change."""

    __slots__ = ("_path", "document")

    def __init__(self, path: str, document: dict[str, Any]) -> None:
        self._path = path
        self.document = document

    @classmethod
    def begin(cls, settings: Settings) -> tuple[Record, list[Child]]:
        """Return the record of a daemon that begins, and the children an earlier one could not pass on.

        Must run before the beat file is touched: the last beat in it is evidence.
        """
        paths = settings.paths
        earlier = statefile.read(paths.state)
        pulse = read_pulse(paths.beat)
        previous = statefile.verdict(earlier, pulse.wall_micros if pulse else None) if earlier else None
        left = (earlier.get("children") or []) if earlier and statefile.is_same_world(earlier) else []
        # Only those that had ended: the living went to process 1, which tells nobody how they end.
        left = [entry for entry in left if entry[3] is not None]
        document = statefile.identity()
        document.update(
            mode=settings.mode,
            version=settings.version,
            paths=paths.as_dict(),
            started_micros=instant.now_micros(),
            ready_micros=None,
            last_beat_micros=None,
            worker_pid=None,
            restarts=0,
            last_worker_exit=None,
            last_upgrade=None,
            stopping=None,
            ended=None,
            previous=previous,
            children=[],
        )
        return cls(paths.state, document), [Child(*entry) for entry in left]

    @classmethod
    def resume(cls, settings: Settings, document: dict[str, Any]) -> Record:
        """Return the record that the supervisor before an upgrade handed on."""
        document["version"] = settings.version = __version__  # of the code that runs now
        return cls(settings.paths.state, document)

    @property
    def restarts(self) -> int:
        """Return how often a worker was started again."""
        return int(self.document["restarts"])

    def ready(self) -> None:
        """Note that the daemon is able to serve."""
        self.document["ready_micros"] = instant.now_micros()

    def restarting(self, why: str) -> None:
        """Note that a worker was lost and another will be started."""
        self.document["restarts"] += 1
        self.document["last_worker_exit"] = {"at": instant.now_text(), "why": why}

    def upgraded(self, failure: str | None) -> None:
        """Note how an upgrade went; whoever asked for it looks here."""
        self.document["last_upgrade"] = {"at": instant.now_text(), "ok": failure is None, "detail": failure}

    def stopping(self, reason: str | None) -> None:
        """Note that the daemon was asked to stop, by a signal of that name or otherwise."""
        self.document["stopping"] = {"at": instant.now_text(), "reason": reason}

    def ended(self, how: str, exit_code: int, detail: str | None, children: list[list[object]]) -> None:
        """Note the end, with the children whose exit codes nobody has written down yet."""
        self.document["ended"] = {
            "how": how,
            "at": instant.now_text(),
            "exit_code": exit_code,
            "detail": detail,
        }
        self.document["children"] = children

    def save(self, worker_pid: int | None, pulse: Pulse | None) -> None:
        """Write the state file. Raises ``OSError``; the old one stays then."""
        if pulse is not None and pulse.beats:
            self.document["last_beat_micros"] = pulse.wall_micros
        self.document["worker_pid"] = worker_pid
        statefile.write(self._path, self.document)

"""What supervisor and worker both must know, and nothing else (both are short of memory).

The lines between them, one JSON object each::

    supervisor → worker                                  worker → supervisor
    hello  children standby restarts beat out mode       ready     status
    stop   signal immediate keep_jobs grace              failed    exit_code message
    reload · reopen · retire                             child     tag pid ticks
    child_exit  tag pid ticks status                     ack       pid ticks
    go     children                                      status    text
                                                         reloading · reloaded settings

Fields are added, never renamed: over an upgrade the two ends are of different versions.
"""

from __future__ import annotations

CHANNEL_VARIABLE = "ECHOSCHED_CHANNEL"
SOLO_VARIABLE = "ECHOSCHED_SOLO"


class Child:
    """A process started by a worker: alive, or ended with *status*.

    *status* is ``None`` while it lives, then an exit code, or minus the number of a signal.
    """

    __slots__ = ("pid", "start_ticks", "status", "tag")

    def __init__(self, tag: str, pid: int, start_ticks: int, status: int | None = None) -> None:
        self.tag = tag
        self.pid = pid
        self.start_ticks = start_ticks
        self.status = status

    def __repr__(self) -> str:
        return f"Child({self.tag!r}, pid={self.pid}, start_ticks={self.start_ticks}, status={self.status})"

"""The beat: a small memory-mapped file that says when the worker's loop last went round.

Nine unsigned 64-bit words, host byte order, each written by one aligned store (no reader sees half
of one)::

    0 magic   1 worker pid   2 beats   3 last beat, CLOCK_MONOTONIC ns
    4 degraded since, wall µs (0: not)   5 beat interval, ns   6 last beat, wall µs
    7 as 4, of an earlier worker that died like that (0: none)
    8 whether something else is wrong that an operator must see to (0: no): the journal cannot be written

The monotonic clock decides (it rests in suspend and never steps); the wall instant is for people.
``status``, health and supervisor read this and never the worker's socket, so that a hung worker can
neither hang them nor look well. Words survive the writer's death, which is how a later look knows
when a daemon that vanished was last alive.
"""

from __future__ import annotations

import mmap
import os
import time

MAGIC = 0x6563686F_62656174  # "echobeat"
SIZE = 72
INTERVAL_SECONDS = 5.0
STALL_FACTOR = 2.4  # 12 s at the normal interval: two beats missed, and a little


def interval_for(watchdog_seconds: float) -> float:
    """Return how often a loop must beat so that a watchdog of that length (0: none) is never deceived."""
    return min(INTERVAL_SECONDS, watchdog_seconds / 6) if watchdog_seconds else INTERVAL_SECONDS


class Beat:
    """The writer's end: the worker's, and the supervisor's between two workers."""

    __slots__ = ("_inode", "_map", "_words", "path")
    _inode: int
    _map: mmap.mmap
    _words: memoryview[int]

    def __init__(self, path: str) -> None:
        """Open (or create, mode 0640) the beat file at *path*."""
        self.path = path
        self._open()

    def reset(self, pid: int, interval_seconds: float) -> None:
        """Begin anew for the worker *pid* (0: there is none now); its age counts from here."""
        words = self._words
        words[2] = 0
        # A worker that died degraded, perhaps not the first in a row: the next one must know since when.
        words[7] = min((since for since in (words[7], words[4]) if since), default=0)
        words[4] = words[8] = 0
        words[5] = int(interval_seconds * 1e9)
        words[6] = time.time_ns() // 1000
        words[3] = time.monotonic_ns()
        words[1] = pid
        words[0] = MAGIC

    def beat(self) -> None:
        """Say that the loop is going round. Costs a microsecond and never blocks."""
        self.keep()
        words = self._words
        words[6] = time.time_ns() // 1000
        words[3] = time.monotonic_ns()
        words[2] += 1

    def keep(self) -> None:
        """Go over to a new file when the old one was removed (by a cleaner of /tmp, say): nobody sees that one."""
        try:
            if os.stat(self.path, follow_symlinks=False).st_ino == self._inode:
                return
        except FileNotFoundError:
            pass
        except OSError:
            return
        words = self._words.tolist()
        try:
            self.close()
            self._open()
        except OSError:  # a full disk: go on in memory, unseen
            self._map = mmap.mmap(-1, SIZE)
            self._words = memoryview(self._map).cast("Q")
            self._inode = 0
        if self._words[0] != MAGIC:
            for index, word in enumerate(words):
                self._words[index] = word

    def set_degraded(self, since_micros: int | None) -> None:
        """Say since when (wall clock, µs since the epoch) something is wrong; ``None``: all is well."""
        self._words[4] = since_micros or 0

    def set_ailing(self, is_ailing: bool) -> None:
        """Say whether something is wrong that no later worker needs to know of."""
        self._words[8] = is_ailing

    @property
    def inherited_degraded_micros(self) -> int | None:
        """Return since when an earlier worker, which did not live to recover, was degraded."""
        return self._words[7] or None

    @property
    def has_bad_times(self) -> bool:
        """Tell whether this file holds what a later worker must know: bad times that never ended."""
        return bool(self._words[4] or self._words[7])

    def forget_inherited(self) -> None:
        """Say that the earlier worker's bad times are accounted for."""
        self._words[7] = 0

    @property
    def interval_seconds(self) -> float:
        """Return how often the worker is expected to beat."""
        return self._words[5] / 1e9 or INTERVAL_SECONDS

    def look(self) -> Pulse:
        """Return what the file says now."""
        return Pulse(list(self._words))

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._words.release()
        self._map.close()

    def _open(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            status = os.fstat(descriptor)
            if status.st_size < SIZE:
                # Written, not truncated to size: touching a hole on a full disk would be a SIGBUS.
                os.pwrite(descriptor, bytes(SIZE - status.st_size), status.st_size)
            self._map = mmap.mmap(descriptor, SIZE)
            self._inode = status.st_ino
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")


class Pulse:
    """One look at a beat file."""

    __slots__ = (
        "beats",
        "degraded_since_micros",
        "interval_seconds",
        "is_ailing",
        "monotonic_ns",
        "wall_micros",
        "worker_pid",
    )

    def __init__(self, words: list[int]) -> None:
        self.worker_pid = words[1]
        self.beats = words[2]
        self.monotonic_ns = words[3]
        self.degraded_since_micros = words[4] or None
        self.interval_seconds = words[5] / 1e9
        self.wall_micros = words[6]
        self.is_ailing = bool(words[8])

    @property
    def age_seconds(self) -> float:
        """Return how long ago the last beat was (only on the boot that wrote it)."""
        return max(0.0, (time.monotonic_ns() - self.monotonic_ns) / 1e9)

    @property
    def stalled(self) -> bool:
        """Tell whether the loop has missed more than two beats."""
        return self.age_seconds > STALL_FACTOR * (self.interval_seconds or INTERVAL_SECONDS)


def read_pulse(path: str) -> Pulse | None:
    """Return what the beat file at *path* says; ``None`` when there is none or it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        data = os.read(descriptor, SIZE)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(data) < SIZE:
        return None
    words = memoryview(data).cast("Q").tolist()
    return Pulse(words) if words[0] == MAGIC else None

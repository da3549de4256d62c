"""The thread that holds output files to their limits.

A job that prints nothing costs nothing: its file is watched by inotify. The first write makes it *hot*:
its size is then looked at after 20 ms, more rarely while it grows slowly (down to four times a second),
more often while it grows fast, and when it has stopped growing inotify takes over again. Jobs that end
within the first 20 ms never meet this thread, except that a while later it looks whether they left
somebody behind who still writes.

The thread also does what the end of a run needs done to its file, so that the loop never copies.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import logging
import os
import select
import struct
import threading
from collections import deque
from collections.abc import Callable
from itertools import count

from echosched.executor import output
from echosched.protocols import Clock

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 0.02
_LEFTOVER_SECONDS = 2.0  # after an end: does a child of the job still write?
_FASTEST, _SLOWEST = 0.005, 0.25
_FAST_GROWTH = 4 * 1024 * 1024  # between two looks

_IN_MODIFY, _IN_CLOSE_WRITE, _IN_ONESHOT = 0x2, 0x8, 0x80000000
_EVENT = struct.Struct("iIII")


class Watched:
    """One output file under watch. *ended* is set, by whoever sees it, when the job's main process has gone."""

    __slots__ = ("cold", "ended", "interval", "limit", "path", "size")

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.size = 0
        self.interval = FIRST_LOOK_SECONDS
        self.ended = False
        self.cold = False  # left to inotify


class OutputKeeper:
    """Owns the thread; :meth:`watch` and :meth:`beside` may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._fresh: deque[tuple[float, Watched]] = deque()
        self._cooled: deque[Watched] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._due: list[tuple[float, int, Watched]] = []
        self._order = count()
        self._asleep = True
        self._closing = False
        self._wake_r = self._wake_w = -1
        self._inotify = _Inotify.open()

    def watch(self, path: str, limit: int) -> Watched:
        """Hold *path* to *limit* from now on."""
        watched = Watched(path, limit)
        self._fresh.append((self._clock.monotonic() + FIRST_LOOK_SECONDS, watched))
        if self._asleep:
            self._wake()
        return watched

    def ended(self, watched: Watched) -> None:
        """Note that the job has ended; somebody it left behind may still write."""
        watched.ended = True
        if watched.cold:
            # No event may ever come (the job had closed its output long before). No hurry: next time round.
            self._cooled.append(watched)

    def beside(self, errand: Callable[[], None]) -> None:
        """Call *errand* in the thread soon."""
        self._errands.append(errand)
        self._wake()

    def start(self) -> None:
        """Start the thread, once; raises ``RuntimeError`` where there is none to be had, and may be called again."""
        with self._lock:
            if self._thread is not None or self._closing:
                return
            if self._wake_w < 0:
                self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            thread = threading.Thread(target=self._work, name="output", daemon=True)
            thread.start()
            self._thread = thread

    def close(self, timeout: float | None = None) -> None:
        """Do the errands that are waiting and end the thread, within *timeout* seconds."""
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is not None:
            self._wake()
            thread.join(timeout)
            if thread.is_alive():
                return  # a disk does not answer; it may still read from the pipe
        with self._lock:
            # A run may yet be concluded: its errand must not wake whoever has these numbers by then.
            for descriptor in (self._wake_r, self._wake_w):
                if descriptor >= 0:
                    os.close(descriptor)
            self._wake_r = self._wake_w = -1
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _wake(self) -> None:
        if self._thread is None:
            self.start()
        with self._lock:
            if self._wake_w >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_w, b".")

    # ── in the thread ─────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        poller = select.poll()
        poller.register(self._wake_r, select.POLLIN)
        if self._inotify is not None:
            poller.register(self._inotify.descriptor, select.POLLIN)
        while True:
            try:
                self._turn()
            except Exception:
                log.exception("holding outputs to their limits: a turn failed")
            if self._closing and not self._errands:
                return
            poller.poll(self._rest())
            self._asleep = False
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, 4096)

    def _rest(self) -> float | None:
        """Return how many milliseconds may be slept; ``None``: until somebody wakes us."""
        self._asleep = True
        if self._errands:
            return 0
        now = self._clock.monotonic()
        pauses = [max(self._fresh[0][0] - now, FIRST_LOOK_SECONDS / 2)] if self._fresh else []
        pauses += [max(self._due[0][0] - now, 0.001)] if self._due else []
        if not pauses:
            return None
        # Waking up soon anyway: new files need not wake us for their first look.
        self._asleep = min(pauses) > FIRST_LOOK_SECONDS
        return min(pauses) * 1000

    def _turn(self) -> None:
        while self._errands:
            errand = self._errands.popleft()
            try:
                errand()
            except Exception:
                log.exception("an output file could not be finished")
        now = self._clock.monotonic()
        if self._inotify is not None:
            for watched in self._inotify.read():
                self._later(watched, now, FIRST_LOOK_SECONDS)
            while self._cooled:
                watched = self._cooled.popleft()
                if watched.cold:
                    self._inotify.forget(watched)
                    self._later(watched, now, _LEFTOVER_SECONDS)
        while self._fresh and self._fresh[0][0] <= now:
            _, watched = self._fresh.popleft()
            if watched.ended:
                # In a burst there is better to do than to look for what was left behind.
                self._later(watched, now, _LEFTOVER_SECONDS)
            else:
                self._look(watched, now)
        while self._due and self._due[0][0] <= now:
            self._look(heapq.heappop(self._due)[2], now)

    def _later(self, watched: Watched, now: float, seconds: float) -> None:
        watched.interval = seconds
        heapq.heappush(self._due, (now + seconds, next(self._order), watched))

    def _look(self, watched: Watched, now: float) -> None:
        if watched.ended and not output.is_written(watched.path):
            output.finish(watched.path, watched.limit)
            return
        size = output.size_of(watched.path)
        if size is None:
            return
        growth, watched.size = size - watched.size, size
        if size > watched.limit + output.SLACK:
            watched.size = self._trim(watched)
        if growth == 0 and self._inotify is not None and self._inotify.add(watched):
            # What was written between the look and the watch must not go unseen.
            if output.size_of(watched.path) == watched.size:
                return
            self._inotify.forget(watched)
        if growth >= _FAST_GROWTH:
            self._later(watched, now, _FASTEST)
        else:
            self._later(watched, now, min(max(watched.interval, FIRST_LOOK_SECONDS) * 2, _SLOWEST))

    def _trim(self, watched: Watched) -> int:
        try:
            descriptor = os.open(watched.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return watched.size
        try:
            return output.trim(descriptor, watched.limit)
        finally:
            os.close(descriptor)


class _Inotify:
    """One-shot watches on files."""

    def __init__(self, descriptor: int, add_watch: Callable[[int, bytes, int], int]) -> None:
        self.descriptor = descriptor
        self._add_watch = add_watch
        self._watched: dict[int, Watched] = {}

    @classmethod
    def open(cls) -> _Inotify | None:
        """Return an instance, ``None`` where the kernel has none (left)."""
        try:
            libc = ctypes.CDLL(None)
            descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            add_watch = libc.inotify_add_watch
        except AttributeError:
            return None
        add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        return None if descriptor < 0 else cls(descriptor, add_watch)

    def add(self, watched: Watched) -> bool:
        """Report the next write, or close by a writer, of this file, once."""
        mask = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_ONESHOT
        number = self._add_watch(self.descriptor, os.fsencode(watched.path), mask)
        if number < 0:
            return False
        self._watched[number] = watched
        watched.cold = True
        return True

    def forget(self, watched: Watched) -> None:
        """Take no notice of this file's watch any more."""
        watched.cold = False
        self._watched = {number: other for number, other in self._watched.items() if other is not watched}

    def read(self) -> list[Watched]:
        """Return the files that were written to."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            number, _, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            watched = self._watched.pop(number, None)
            if watched is not None:
                watched.cold = False
                found.append(watched)
        return found

    def close(self) -> None:
        """Drop all watches."""
        os.close(self.descriptor)
        self._watched.clear()

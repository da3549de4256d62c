"""A heap of things that come due, and one wake-up for the earliest of them.

Three clocks meet here. The *wall* clock decides what is due; a timerfd on it wakes the loop at the
right microsecond and, being cancelled by the kernel when the clock is set or the machine resumes,
reports every step at once. Where there is no timerfd, :class:`PollingWakeup` looks again every five
seconds instead. Under a fake clock, whoever moves the clock wakes the heap.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import heapq
import itertools
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeGuard, TypeVar

from echosched.clock import SharedClock, SystemClock
from echosched.protocols import Clock

Item = TypeVar("Item")

RECHECK_SECONDS = 5.0
"""How late the fall-back may notice that the clock was set."""


class Wakeup(Protocol):
    """Something that calls back once when the wall clock reaches an instant, or when it is set."""

    def arm(self, epoch: float | None) -> None:
        """Call back at *epoch* (seconds since 1970, wall clock), replacing an earlier wish; ``None``: never."""

    def close(self) -> None:
        """Release descriptors and handles."""


class TimerHeap(Generic[Item]):
    """Items by due time. Removal is by forgetting: an item pushed again makes its older entry stale."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, Any, int, Item]] = []  # due, rank, serial number, item
        self._current: dict[Item, int] = {}
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._current)

    def push(self, item: Item, epoch: float, rank: Any = 0) -> None:
        """Make *item* (hashable) due at *epoch*, whatever it was before; the lower *rank* comes first then."""
        serial = next(self._serial)
        self._current[item] = serial
        heapq.heappush(self._heap, (epoch, rank, serial, item))
        # Stale entries are dropped when they surface; rebuild when they outnumber the live ones.
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = [entry for entry in self._heap if self._current.get(entry[3]) == entry[2]]
            heapq.heapify(self._heap)

    def discard(self, item: Item) -> None:
        """Forget *item*."""
        self._current.pop(item, None)

    def first(self) -> float | None:
        """Return when the earliest item is due, in epoch seconds."""
        heap = self._heap
        while heap and self._current.get(heap[0][3]) != heap[0][2]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, epoch: float, most: int = sys.maxsize) -> list[tuple[float, Item]]:
        """Remove and return what is due at *epoch*, earliest first, *most* items at a time."""
        due: list[tuple[float, Item]] = []
        while len(due) < most and (first := self.first()) is not None and first <= epoch:
            when, _, _, item = heapq.heappop(self._heap)
            del self._current[item]
            due.append((when, item))
        return due

    def soonest(self, count: int) -> list[tuple[float, Item]]:
        """Return the *count* earliest items without removing them, in time for those alone."""
        heap = self._heap
        # From the top down: an entry is looked at only after the one above it, which is no later.
        border = [(heap[0], 0)] if heap else []
        found: list[tuple[float, Item]] = []
        while border and len(found) < count:
            (when, _, serial, item), place = heapq.heappop(border)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(border, (heap[below], below))
            if self._current.get(item) == serial:
                found.append((when, item))
        return found

    def fill(self, items: Iterable[tuple[float, Item]]) -> None:
        """Push many items that are not there yet, each with its due time: a fifth of what one by one costs."""
        for when, item in items:
            serial = next(self._serial)
            self._current[item] = serial
            self._heap.append((when, 0, serial, item))
        heapq.heapify(self._heap)


# ── wake-ups ──────────────────────────────────────────────────────────────────────────────────

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_CLOCK_REALTIME = 0
_ITIMERSPEC = struct.Struct("@qqqq")  # interval (s, ns), value (s, ns)
_FAR_FUTURE = 253_402_300_799  # the end of year 9999: armed only to hear of clock changes


class TimerfdWakeup:
    """A timerfd on CLOCK_REALTIME, absolute, cancelled when the clock is set.

    ctypes below Python 3.13, which has the calls in ``os``. *on_wake* runs on the loop, once for each
    expiry or clock change.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_wake: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_REALTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._loop = loop
        self._on_wake = on_wake
        loop.add_reader(self._fd, self._readable)
        self.arm(None)

    def arm(self, epoch: float | None) -> None:
        """See :meth:`Wakeup.arm`."""
        if epoch is None or epoch > _FAR_FUTURE:
            seconds, nanos = _FAR_FUTURE, 0
        else:
            # Zero would disarm; the past fires at once. Rounded up, so that a wake-up is never early.
            micros = max(-(-epoch * 1_000_000 // 1), 1)
            seconds, rest = divmod(int(micros), 1_000_000)
            nanos = rest * 1000
        spec = _ITIMERSPEC.pack(0, 0, seconds, nanos)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        # After a clock change the next call fails with ECANCELED but has armed all the same; the step
        # itself is noticed by whoever compares the clocks on each wake-up, so it is enough to wake.
        if self._libc.timerfd_settime(self._fd, flags, spec, None) < 0:
            number = ctypes.get_errno()
            if number != errno.ECANCELED:
                raise OSError(number, os.strerror(number))
            self._loop.call_soon(self._on_wake)

    def _readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        self._on_wake()

    def close(self) -> None:
        """Release the descriptor."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class PollingWakeup:
    """The portable fall-back: sleeps on the loop's clock, at most five seconds at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, on_wake: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._on_wake = on_wake
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, epoch: float | None) -> None:
        """See :meth:`Wakeup.arm`."""
        if self._handle is not None:
            self._handle.cancel()
        wait = RECHECK_SECONDS
        if epoch is not None:
            wait = min(max(epoch - self._clock.now().timestamp(), 0.0), RECHECK_SECONDS)
        self._handle = self._loop.call_later(wait, self._on_wake)

    def close(self) -> None:
        """Cancel what is pending."""
        if self._handle is not None:
            self._handle.cancel()


class MovableClock(Clock, Protocol):
    """A clock that says when it was moved, such as :class:`echosched.testing.FakeClock`."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after each change; the returned function ends that."""


class SubscribedWakeup:
    """For clocks that are moved by hand: wakes whenever that happens."""

    def __init__(self, clock: MovableClock, on_wake: Callable[[], None]) -> None:
        self._unsubscribe = clock.subscribe(on_wake)

    def arm(self, epoch: float | None) -> None:
        """Nothing to arm: every move of the clock wakes."""

    def close(self) -> None:
        """Stop listening."""
        self._unsubscribe()


class ShiftedWakeup:
    """For a clock that is not this host's: wakes when that one reaches the instant."""

    def __init__(self, inner: Wakeup, clock: SharedClock) -> None:
        self._inner = inner
        self._clock = clock

    def arm(self, epoch: float | None) -> None:
        """See :meth:`Wakeup.arm`."""
        self._inner.arm(None if epoch is None else epoch + self._clock.skew_seconds)

    def close(self) -> None:
        """Release what the inner one holds."""
        self._inner.close()


def make_wakeup(loop: asyncio.AbstractEventLoop, clock: Clock, on_wake: Callable[[], None]) -> Wakeup:
    """Return the best wake-up that this system and *clock* allow."""
    if _movable(clock):
        return SubscribedWakeup(clock, on_wake)
    if isinstance(clock, SharedClock):
        return ShiftedWakeup(make_wakeup(loop, SystemClock(), on_wake), clock)
    if sys.platform == "linux":
        try:
            return TimerfdWakeup(loop, on_wake)
        except (OSError, AttributeError):
            pass  # an old kernel, or a C library without the calls: the fall-back is always right, only later
    return PollingWakeup(loop, clock, on_wake)


def _movable(clock: Clock) -> TypeGuard[MovableClock]:
    return hasattr(clock, "subscribe")


# ── delays ────────────────────────────────────────────────────────────────────────────────────


class Delay:
    """A call to come; :meth:`cancel` prevents it."""

    __slots__ = ("_handle", "_unsubscribe")

    def __init__(self, unsubscribe: Callable[[], None] | None = None) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self._unsubscribe = unsubscribe

    def cancel(self) -> None:
        """Prevent the call, if it has not been made."""
        if self._handle is not None:
            self._handle.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()


def call_later(clock: Clock, seconds: float, callback: Callable[..., None], *args: Any) -> Delay:
    """Call back after *seconds* of monotonic time: the running loop's, or that of a clock moved by hand."""
    delay = Delay()
    if not _movable(clock):
        delay._handle = asyncio.get_running_loop().call_later(seconds, callback, *args)
        return delay
    due = clock.monotonic() + seconds

    def moved() -> None:
        if clock.monotonic() >= due:
            delay.cancel()
            callback(*args)

    delay._unsubscribe = clock.subscribe(moved)
    return delay

"""Ending a run's whole tree: the process group, its sessions, and everything that carries its mark.

A job's descendants leave its process group (``setsid``), lose their parent (``daemonize``) or drop their
environment (``env -i``); no single trace finds them all. So three are followed until a scan of /proc
finds nobody: the environment mark, the sessions that marked processes lead, and parenthood. What is
found is signalled through a pidfd opened *before* it was looked at, so that a number that was given
to a stranger in between is never hit.

One thread does this for all runs that have to end, and sleeps when there are none.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from echosched.executor import proc
from echosched.executor.cgroup import Cgroups
from echosched.executor.environment import MARK
from echosched.protocols import Clock

log = logging.getLogger(__name__)

_ENVIRON_LIMIT = 1 << 18  # what we start has the mark first; descendants may have moved it back
_MARK_PREFIX = MARK.encode() + b"="
_PAUSE_SECONDS = 0.02  # between scans while processes keep dying one by one
_EMPTY_SCANS = 2  # a process that forks and dies while /proc is being read may be missed once
_CHASE_SECONDS = 0.2  # at most so long in a row: other trees have to end, too
_EXEC_TICKS = 2 * proc.TICKS_PER_SECOND
_EXEC_PAUSES_SECONDS = (0.002, 0.01, 0.05)
_MOST_HELD = 64  # pidfds kept open between scans: of a tree of thousands, descriptors are left for other runs
_STEP_SECONDS = 1.0  # between scans while nothing happens: newcomers of a tree that was told to end


@dataclass(slots=True)
class Grave:
    """One run that has to end. *main* is its first process, born at *start_ticks*; *deadline* (monotonic): the KILL.

    *pinned*: main is our unreaped child, its number therefore cannot have been given to anybody else.
    """

    mark: bytes
    main: int
    start_ticks: int
    pinned: bool
    deadline: float
    done: Callable[[int], None]
    tag: str = ""
    empty: int = 0  # scans in a row that found nobody
    told: set[tuple[int, int]] = field(default_factory=set)  # (pid, start ticks) that got their TERM
    immune: set[tuple[int, int]] = field(default_factory=set)  # refused our signal: not ours to end


class Undertaker:
    """Ends trees beside the loop: TERM and CONT now, KILL at each grave's deadline, until nobody is left."""

    def __init__(self, clock: Clock, cgroups: Cgroups | None = None) -> None:
        self._clock = clock
        self._cgroups = cgroups
        self._graves: list[Grave] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake_r = self._wake_w = -1
        self._closing = False

    def start(self) -> None:
        """Start the thread, once; raises ``RuntimeError`` where there is none to be had, and may be called again.

        Long before it is needed: when a machine has no threads left is just when runs have to be ended.
        """
        with self._lock:
            if self._thread is not None or self._closing:
                return
            if self._wake_w < 0:
                self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            thread = threading.Thread(target=self._work, name="undertaker", daemon=True)
            thread.start()
            self._thread = thread

    def bury(self, grave: Grave) -> None:
        """Begin to end *grave*'s tree; ``done(left)`` is called in the undertaker's thread when it is gone.

        *left* counts processes that refused our signals (they run under another account).
        """
        self.start()
        with self._lock:
            self._graves.append(grave)
        self.wake()

    def hasten(self, grave: Grave, deadline: float) -> None:
        """Bring *grave*'s KILL forward to *deadline* (monotonic)."""
        if deadline < grave.deadline:
            grave.deadline = deadline
            self.wake()

    def wake(self) -> None:
        """Let the thread look again now."""
        with self._lock:
            if self._wake_w < 0:
                return
            try:
                os.write(self._wake_w, b".")
            except BlockingIOError:
                pass  # it is awake already

    def close(self, timeout: float | None = None) -> None:
        """End the thread, within *timeout* seconds; trees that are not gone yet stay as they are."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                return  # it hangs in the kernel, and may still read from the pipe
        with self._lock:
            for descriptor in (self._wake_r, self._wake_w):
                if descriptor >= 0:
                    os.close(descriptor)
            self._wake_r = self._wake_w = -1

    # ── in the thread ─────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while not self._closing:
            with self._lock:
                graves = list(self._graves)
            try:
                held, timeout = self._round(graves) if graves else ([], None)
            except Exception:
                log.exception("ending job processes: a round failed")
                held, timeout = [], _STEP_SECONDS
            self._rest(held, timeout)

    def _round(self, graves: list[Grave]) -> tuple[list[int], float]:
        """Signal whoever has to hear; return pidfds to wait for, and for how long."""
        newest = proc.newest_pid()
        census = Census.take(min(grave.start_ticks for grave in graves))
        trees = [(grave, self._members(census, grave)) for grave in graves]
        now = self._clock.monotonic()
        held: list[int] = []
        timeout = _STEP_SECONDS
        for grave, members in trees:
            if members:
                self._signal(grave, members, held)
        caught = self._chase(graves, newest, held)
        for grave, members in trees:
            if not members and grave.mark not in caught:
                grave.empty += 1
                if grave.empty < _EMPTY_SCANS:
                    timeout = min(timeout, _PAUSE_SECONDS)
                    continue
                with self._lock:
                    self._graves.remove(grave)
                grave.done(len(grave.immune))
                continue
            grave.empty = 0
            if now < grave.deadline:
                timeout = min(timeout, grave.deadline - now)
            elif grave.mark in caught:
                timeout = 0.0
        return held, max(timeout, 0.0)

    def _chase(self, graves: list[Grave], since: int, held: list[int]) -> set[bytes]:
        """Signal marked processes that were born after number *since*; return the marks that were met.

        A chain of processes that fork and die faster than /proc can be read shows a scan nothing but its
        dead. It is caught at its head: the newest process there is.
        """
        by_mark = {grave.mark: grave for grave in graves}
        caught: set[bytes] = set()
        end = self._clock.monotonic() + _CHASE_SECONDS
        met = True
        while met and self._clock.monotonic() < end:
            met = False
            newest = proc.newest_pid()
            for pid in range(newest, since if since < newest else newest - 1, -1):
                grave = by_mark.get(read_mark(pid) or b"")
                stat = None if grave is None else proc.read_stat(pid)
                if grave is None or stat is None or stat.dead or (pid, stat.start_ticks) in grave.immune:
                    continue
                met = True
                caught.add(grave.mark)
                self._signal(grave, [stat], held)
            since = newest
        return caught

    def _members(self, census: Census, grave: Grave) -> list[proc.Stat]:
        inmates = [] if self._cgroups is None else self._cgroups.members(grave.tag)
        tree = census.tree(grave.mark, grave.main, grave.start_ticks, pinned=grave.pinned, inmates=inmates)
        return [stat for stat in tree if (stat.pid, stat.start_ticks) not in grave.immune]

    def _signal(self, grave: Grave, members: Iterable[proc.Stat], held: list[int]) -> None:
        killing = self._clock.monotonic() >= grave.deadline
        if killing and self._cgroups is not None:
            self._cgroups.kill(grave.tag)
        # Each process is told TERM once: many programs take a second one as "drop everything".
        for stat in members:
            who = (stat.pid, stat.start_ticks)
            pidfd = _open_same(stat)
            if pidfd is None:
                continue
            try:
                if killing:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                elif who not in grave.told:
                    grave.told.add(who)
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                    # A stopped process acts on TERM only when it is continued.
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            except ProcessLookupError:
                pass
            except PermissionError:
                grave.immune.add(who)
                log.warning(
                    "process %s of a job that has to end belongs to another account; left alone", who[0]
                )
            finally:
                # Some deaths are enough to wake up by: the next scan sees the others'.
                if len(held) < _MOST_HELD:
                    held.append(pidfd)
                else:
                    os.close(pidfd)

    def _rest(self, held: list[int], timeout: float | None) -> None:
        poller = select.poll()
        poller.register(self._wake_r, select.POLLIN)
        for pidfd in held:
            poller.register(pidfd, select.POLLIN)
        try:
            events = poller.poll(None if timeout is None else timeout * 1000)
            try:
                os.read(self._wake_r, 4096)
            except BlockingIOError:
                pass
            if held and events:
                # Deaths come in swarms: one scan for many.
                for pidfd, _ in events:
                    poller.unregister(pidfd)
                poller = select.poll()
                poller.register(self._wake_r, select.POLLIN)
                poller.poll(_PAUSE_SECONDS * 1000)
        finally:
            for pidfd in held:
                os.close(pidfd)


class Census:
    """All processes at one moment, with the marks of those young enough to belong to a job."""

    def __init__(self, everyone: dict[int, proc.Stat], marks: dict[int, bytes]) -> None:
        self._everyone = everyone
        self._marks = marks
        self._children: dict[int, list[proc.Stat]] = {}
        for stat in everyone.values():
            self._children.setdefault(stat.parent, []).append(stat)

    @classmethod
    def take(cls, oldest_ticks: int) -> Census:
        """Look at every process; read the environment of those that started at or after *oldest_ticks*."""
        everyone: dict[int, proc.Stat] = {}
        own = os.getpid()
        for pid in all_pids():
            stat = proc.read_stat(pid)
            if stat is not None and not stat.dead and pid != own:
                everyone[pid] = stat
        marks: dict[int, bytes] = {}
        unread = [stat.pid for stat in everyone.values() if stat.start_ticks >= oldest_ticks]
        newest = max((stat.start_ticks for stat in everyone.values()), default=0)
        for pause in (*_EXEC_PAUSES_SECONDS, None):
            found = {pid: read_mark(pid) for pid in unread}
            marks |= {pid: mark for pid, mark in found.items() if mark}
            # A process in the middle of an exec shows no environment for an instant. (One that has none
            # at all, or is the kernel's, looks the same: only the youngest are worth a second look.)
            unread = [
                pid
                for pid, mark in found.items()
                if mark == b""
                and newest - everyone[pid].start_ticks < _EXEC_TICKS
                and everyone[pid].parent != 2
            ]
            if not unread or pause is None:
                break
            select.select((), (), (), pause)
        return cls(everyone, marks)

    def tree(
        self, mark: bytes, main: int, start_ticks: int, *, pinned: bool, inmates: Iterable[int] = ()
    ) -> list[proc.Stat]:
        """Return the living members of a job's tree (never zombies); *inmates* are known to belong."""
        found = {pid: self._everyone[pid] for pid, value in self._marks.items() if value == mark}
        found |= {pid: self._everyone[pid] for pid in inmates if pid in self._everyone}
        first = self._everyone.get(main)
        if first is not None and (pinned or first.start_ticks == start_ticks):
            found[main] = first
        sessions = {main} if pinned or main in found else set()
        while True:
            # A session is a job's own when its leader is (or is gone): a shell of somebody who merely
            # copied a mark into his environment is not.
            sessions |= {
                stat.session
                for stat in found.values()
                if stat.session in found or stat.session not in self._everyone
            }
            more = {
                stat.pid: stat
                for stat in self._everyone.values()
                if stat.session in sessions and stat.pid not in found and stat.start_ticks >= start_ticks
            }
            for pid in found:
                for child in self._children.get(pid, ()):
                    if child.pid not in found and child.start_ticks >= start_ticks:
                        more[child.pid] = child
            if not more:
                return list(found.values())
            found |= more

    def marked(self, instance: str) -> dict[str, list[proc.Stat]]:
        """Return living processes by attempt tag, of those that *instance* started."""
        prefix = instance.encode() + b":"
        found: dict[str, list[proc.Stat]] = {}
        for pid, mark in self._marks.items():
            if mark.startswith(prefix):
                found.setdefault(mark[len(prefix) :].decode("ascii", "replace"), []).append(
                    self._everyone[pid]
                )
        return found


def all_pids() -> list[int]:
    """Return the numbers of all processes that /proc shows."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def read_mark(pid: int) -> bytes | None:
    """Return the mark in the environment of *pid*, ``None`` if it has none or may not be read.

    Empty where the environment is.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        try:
            environ = os.read(descriptor, _ENVIRON_LIMIT)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    if not environ:
        return b""
    at = environ.find(b"\0" + _MARK_PREFIX)
    if at >= 0:
        at += 1
    elif not environ.startswith(_MARK_PREFIX):
        return None
    else:
        at = 0
    end = environ.find(b"\0", at)
    return environ[at + len(_MARK_PREFIX) : end if end >= 0 else len(environ)]


def _open_same(stat: proc.Stat) -> int | None:
    try:
        pidfd = os.pidfd_open(stat.pid)
    except OSError:
        return None
    again = proc.read_stat(stat.pid)
    if again is not None and again.start_ticks == stat.start_ticks:
        return pidfd
    os.close(pidfd)
    return None

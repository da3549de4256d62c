"""Doing something to a running daemon from outside: stop, kill, signal. Never to a stranger.

A process is signalled only when it holds the lock's number *and* the state file's identity (start
ticks, boot id, pid namespace) is its own, through a pidfd. What cannot be identified is left alone,
with a reason.
"""

from __future__ import annotations

import os
import select
import signal
import time

from echosched.daemon import lock, proc, statefile
from echosched.errors import EX_PRIVILEGE, DaemonError, NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from echosched.daemon.settings import Paths

IDENTITY_SECONDS = 3.0
SIGNALS = {
    "stop": signal.SIGTERM,
    "reload": signal.SIGHUP,
    "reopen": signal.SIGUSR1,
    "upgrade": signal.SIGUSR2,
    "stop_keep_jobs": getattr(signal, "SIGRTMIN", signal.SIGQUIT),
}


class Target:
    """An identified daemon, behind a pidfd where there are such; use as a context manager."""

    __slots__ = ("pid", "pidfd", "start_ticks")

    def __init__(self, pid: int, start_ticks: int, pidfd: int | None) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.pidfd = pidfd

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_details: object) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)

    def send(self, number: int) -> None:
        """Send a signal; a process that has just ended is no error. Raises ``DaemonError`` without the right."""
        try:
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, number)
            else:
                proc.send_signal(self.pid, self.start_ticks, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise DaemonError(
                f"process {self.pid}: belongs to another user (use that account, or root)",
                exit_code=EX_PRIVILEGE,
            ) from None

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended (a pidfd turns readable then); tell whether it has."""
        if self.pidfd is not None:
            return bool(select.select([self.pidfd], [], [], max(0.0, seconds))[0])
        deadline = time.monotonic() + seconds
        while proc.is_alive(self.pid, self.start_ticks):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True


def find(paths: Paths, *, patience: float = IDENTITY_SECONDS) -> Target | None:
    """Return the running daemon of *paths*, ``None`` when nobody holds its lock.

    Raises ``DaemonError`` when somebody does who cannot be identified within *patience* seconds (a
    daemon that is just starting needs a moment to write its state).
    """
    deadline = time.monotonic() + patience
    while True:
        held = lock.is_held(paths.pidfile)
        if held is False:
            return None
        if held is None:
            raise DaemonError(f"{paths.pidfile}: cannot be read", exit_code=EX_PRIVILEGE)
        pid = lock.read_pid(paths.pidfile)
        document = statefile.read(paths.state)
        if document is not None and pid is not None and statefile.describes(document, pid):
            pidfd = proc.open_pidfd(pid, document["start_ticks"])
            if pidfd is not None or not proc.HAVE_PIDFD:
                return Target(pid, document["start_ticks"], pidfd)
        if document is None and statefile.is_withheld(paths.state):
            raise DaemonError(
                f"{paths.state}: may not be read, so process {pid or 'unknown'} cannot be identified; nothing was"
                " signalled (ask as its user, or as root)",
                exit_code=EX_PRIVILEGE,
            )
        if time.monotonic() >= deadline:
            raise DaemonError(
                f"{paths.pidfile}: its holder (pid {pid or 'unknown'}) cannot be identified; nothing was signalled"
            )
        time.sleep(0.02)


def send(paths: Paths, verb: str) -> int:
    """Signal the running daemon (``reload reopen upgrade stop stop_keep_jobs``) and return its pid.

    Raises ``NotRunning`` when there is none.
    """
    target = find(paths)
    if target is None:
        raise NotRunning("not running (start it first)")
    with target:
        target.send(SIGNALS[verb])
        return target.pid


def stop_daemon(
    paths: Paths,
    *,
    timeout: float,
    force: bool = False,
    keep_jobs: bool = False,
    on_wait: Callable[[float], None] | None = None,
    child_mark: str | None = None,
) -> int | None:
    """Stop the daemon and wait until it is gone; return its pid, ``None`` when there was none.

    *on_wait* is called about once a second with the seconds waited. *force*: KILL daemon and all that runs
    below it, at once, and whatever carries *child_mark* (see ``Settings``; jobs that an earlier daemon
    left behind, too). Raises ``DaemonError`` when it has not ended after *timeout* seconds.
    """
    target = find(paths)
    if target is None:
        if force:
            _kill_below(None, child_mark)
        _sweep(paths)
        return None
    with target:
        if force:
            # Stopped first: it must not start another worker while we collect what runs below it.
            target.send(signal.SIGSTOP)
            _kill_below(target, child_mark)
            target.wait(5.0)
            _note_forced(paths, target)
            _sweep(paths)
            return target.pid
        target.send(SIGNALS["stop_keep_jobs" if keep_jobs else "stop"])
        begun = time.monotonic()
        while not target.wait(min(1.0, timeout)):
            waited = time.monotonic() - begun
            if waited >= timeout:
                raise DaemonError(
                    f"process {target.pid} has not ended after {waited:.0f} s (stop --force kills it)"
                )
            if on_wait is not None:
                on_wait(waited)
        _await_lock(paths)
        return target.pid


def _kill_below(target: Target | None, child_mark: str | None) -> None:
    """KILL the daemon and everything that is, or was started by, one of its jobs; until nothing is left."""
    mark = child_mark.partition("{0}")[0].encode() if child_mark else b""
    deadline = time.monotonic() + 5.0
    found = descendants(target.pid) if target is not None else []
    if target is not None:
        target.send(signal.SIGKILL)
    me = os.getpid()
    while True:
        marked = [pid for pid in proc.all_pids() if proc.is_marked(pid, (mark,))] if mark else []
        found += [(pid, ticks) for pid in marked if (ticks := proc.start_ticks(pid)) is not None]
        # What one of them has started since belongs to it, too.
        found += [below for pid, _ in found for below in descendants(pid)]
        living = {(pid, ticks) for pid, ticks in found if pid != me and proc.is_alive(pid, ticks)}
        if not living or time.monotonic() > deadline:
            return
        for pid, ticks in living:
            try:
                proc.send_signal(pid, ticks, signal.SIGKILL)
            except PermissionError:
                continue  # a set-uid program of a job: not ours to end
        found = list(living)
        time.sleep(0.01)


def descendants(root: int) -> list[tuple[int, int]]:
    """Return (pid, start ticks) of all living processes below *root*."""
    stats = {pid: stat for pid in proc.all_pids() if (stat := proc.read_stat(pid)) is not None}
    found: set[int] = set()
    fresh = {root}
    while fresh:
        fresh = {pid for pid, stat in stats.items() if stat.parent in fresh and pid not in found}
        found |= fresh
    return [(pid, stats[pid].start_ticks) for pid in found if not stats[pid].dead]


def _note_forced(paths: Paths, target: Target) -> None:
    document = statefile.read(paths.state)
    if document is None or document["pid"] != target.pid or document.get("ended"):
        return
    from echosched.daemon import instant

    document["ended"] = {
        "how": "signal 9",
        "at": instant.now_text(),
        "exit_code": None,
        "detail": "stopped with --force, jobs included",
    }
    try:
        statefile.write(paths.state, document)
    except OSError:
        return  # the next status finds out by itself


def _sweep(paths: Paths) -> None:
    """Remove a pidfile that nobody holds, under its lock."""
    try:
        descriptor = lock.take_patiently(paths.pidfile) if os.path.lexists(paths.pidfile) else None
    except OSError:
        return
    if descriptor is not None:
        lock.write_pid(descriptor, os.getpid())
        lock.remove(paths.pidfile, descriptor, os.getpid())
        os.close(descriptor)


def _await_lock(paths: Paths) -> None:
    """Wait a moment for the lock: an upgrade's or a child's copy may outlive the process by a little."""
    deadline = time.monotonic() + 1.0
    while lock.is_held(paths.pidfile) and time.monotonic() < deadline:
        time.sleep(0.01)


__all__ = ["SIGNALS", "Target", "descendants", "find", "send", "stop_daemon"]

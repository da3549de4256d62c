"""The children table: which orphan belongs to what, and how it ended, until somebody has written it down.

A worker reports each child it starts (tag, pid, start ticks). While it lives, the child is its own; when
it dies, the kernel gives the child to the supervisor (a child subreaper), who notes the exit code
before reaping and keeps it until a worker acknowledges. Orphans nobody reported (a daemon that a job
left behind) are reaped and forgotten.
"""

from __future__ import annotations

import os
import signal

from echosched.daemon import proc
from echosched.daemon.wire import Child


class Children:
    """All reported children that are not acknowledged."""

    __slots__ = ("_by_pid",)

    def __init__(self, children: list[Child] | None = None) -> None:
        self._by_pid: dict[int, Child] = {child.pid: child for child in children or []}

    def __len__(self) -> int:
        return len(self._by_pid)

    def knows(self, pid: int) -> bool:
        """Tell whether *pid* is the number of a child held."""
        return pid in self._by_pid

    def all(self) -> list[Child]:
        """Return every child held, in the order they were reported."""
        return list(self._by_pid.values())

    def as_list(self) -> list[list[object]]:
        """Return the JSON form: ``[tag, pid, start ticks, status]`` each."""
        return [[child.tag, child.pid, child.start_ticks, child.status] for child in self._by_pid.values()]

    def report(self, tag: str, pid: int, start_ticks: int) -> None:
        """Note a child that a worker started."""
        # An entry with this pid is an older namesake: the number was given again, so that one was
        # reaped by its worker, whose acknowledgement is on its way.
        self._by_pid[pid] = Child(tag, pid, start_ticks)

    def acknowledge(self, pid: int, start_ticks: int) -> None:
        """Forget a child whose end is recorded; a later process with the same pid is not meant."""
        child = self._by_pid.get(pid)
        if child is not None and child.start_ticks == start_ticks:
            del self._by_pid[pid]

    def ended(self, pid: int, start_ticks: int | None, status: int) -> Child | None:
        """Note how the process *pid*, about to be reaped, ended; return it if it is one of ours."""
        child = self._by_pid.get(pid)
        if child is None or child.status is not None:
            return None
        if start_ticks is not None and child.start_ticks != start_ticks:
            return None
        child.status = status
        return child

    def living(self) -> list[Child]:
        """Return the children that still run."""
        return [c for c in self._by_pid.values() if c.status is None and proc.is_alive(c.pid, c.start_ticks)]


def find_zombie() -> tuple[int, int | None, int] | None:
    """Return (pid, start ticks, status) of a child that has ended and is not reaped, or ``None``.

    It stays a zombie until :func:`reap`: what is not recorded yet cannot be lost.
    """
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    return found.si_pid, proc.start_ticks(found.si_pid), status


def reap(pid: int) -> None:
    """Let a recorded zombie go."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def tree_of(roots: list[Child], mark: str | None) -> list[tuple[int, int]]:
    """Return (pid, start ticks) of everything that belongs to *roots*, themselves included.

    Looked for only below this process, to which all that the children lost comes back (subreaper): a
    recycled number outside can never be meant. A process belongs if an ancestor does, if it is in a
    group or session that a root leads, or if an entry of its environment begins with *mark* (a format,
    filled with the tag up to its first dot): the last finds what called setsid and lost its parents.
    """
    if not roots:
        return []
    stats = {pid: stat for pid in proc.all_pids() if (stat := proc.read_stat(pid)) is not None}
    ours = _below({os.getpid()}, stats)
    # A number whose process is somebody else by now leads nothing of the child's.
    roots = [c for c in roots if c.pid not in stats or stats[c.pid].start_ticks == c.start_ticks]
    leaders = {c.pid for c in roots}
    marks = tuple({mark.format(c.tag.partition(".")[0]).encode() for c in roots}) if mark else ()
    members = {
        pid
        for pid in ours
        if pid in leaders
        or stats[pid].group in leaders
        or stats[pid].session in leaders
        or (marks and proc.is_marked(pid, marks))
    }
    members |= _below(members, stats)
    return [(pid, stats[pid].start_ticks) for pid in members if not stats[pid].dead]


def _below(ancestors: set[int], stats: dict[int, proc.Stat]) -> set[int]:
    found: set[int] = set()
    fresh = ancestors
    while fresh:
        fresh = {pid for pid, stat in stats.items() if stat.parent in fresh and pid not in found}
        found |= fresh
    return found


def kill_tree(roots: list[Child], mark: str | None, number: int = signal.SIGKILL) -> int:
    """Signal everything that belongs to *roots*; return how many processes that were."""
    count = 0
    for pid, ticks in tree_of(roots, mark):
        try:
            count += proc.send_signal(pid, ticks, number)
        except PermissionError:
            continue  # a set-uid descendant of an unprivileged daemon: not ours to end
    return count

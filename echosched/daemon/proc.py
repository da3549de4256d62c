"""Who a process is: identity, state, signals and exit codes, straight from the kernel.

A pid alone means nothing, it is given again. A process is known by pid and *start ticks* (field 22
of ``/proc/PID/stat``, clock ticks since boot), on one boot (boot id) and in one pid namespace.
Every signal goes through a pidfd that was opened before the identity was checked, so that it reaches
that process or nobody.
"""

from __future__ import annotations

import os
import signal

DEAD_STATES = "ZXx"
HAVE_PROC = os.path.exists("/proc/self/stat")
HAVE_PIDFD = hasattr(os, "pidfd_open")


class Stat:
    """The fields of ``/proc/PID/stat`` that matter here."""

    __slots__ = ("group", "parent", "session", "start_ticks", "state")

    def __init__(self, state: str, parent: int, group: int, session: int, start_ticks: int) -> None:
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.start_ticks = start_ticks

    @property
    def dead(self) -> bool:
        """Tell whether only the exit code is left (a zombie runs nothing and holds nothing)."""
        return self.state in DEAD_STATES


def read_stat(pid: int) -> Stat | None:
    """Return what the kernel says about *pid*, or ``None`` when there is no such process."""
    fields = _stat_fields(pid)
    if fields is None:
        return None if HAVE_PROC else _stat_by_psutil(pid)
    return Stat(fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _stat_fields(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:  # gone; ESRCH while reading, too
        return None
    # The name in parentheses may itself hold spaces and parentheses: fields count from the last one.
    return line[line.rindex(b")") + 2 :].split()


def start_ticks(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; zombies have one too."""
    stat = read_stat(pid)
    return None if stat is None else stat.start_ticks


def is_alive(pid: int, ticks: int | None = None) -> bool:
    """Tell whether *pid* runs and, given *ticks*, still is the process it was. A zombie is dead."""
    stat = read_stat(pid)
    return stat is not None and not stat.dead and (ticks is None or stat.start_ticks == ticks)


def boot_id() -> str:
    """Return the kernel's random name of this boot, empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return the name of this process's pid namespace (``pid:[4026531836]``), empty where unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def open_pidfd(pid: int, ticks: int | None = None) -> int | None:
    """Return a pidfd of that very process, or ``None`` when it is gone, a zombie or another one."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, AttributeError):  # AttributeError: not on this Unix
        return None
    # Check after opening: the descriptor stays with the process it names, the number does not.
    if is_alive(pid, ticks):
        return pidfd
    os.close(pidfd)
    return None


def send_signal(pid: int, ticks: int | None, number: int) -> bool:
    """Send a signal to that very process; ``False`` when it is gone. Raises ``PermissionError``."""
    pidfd = open_pidfd(pid, ticks)
    if pidfd is None:
        return not HAVE_PIDFD and is_alive(pid, ticks) and _kill(pid, number)
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _kill(pid: int, number: int) -> bool:
    """Send a signal where there are no pidfds: a moment after the check, the best such systems offer."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, ``signal 99`` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def usage(pid: int) -> tuple[float, int] | None:
    """Return (CPU seconds, resident bytes) of one process without its children; ``None`` when it is gone."""
    fields = _stat_fields(pid)
    if fields is None:
        return None if HAVE_PROC else _usage_by_psutil(pid)
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _stat_by_psutil(pid: int) -> Stat | None:
    # Only where there is no /proc: hundredths of a second since the epoch stand in for start ticks.
    import psutil

    try:
        process = psutil.Process(pid)
        state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "R"
        parent, started = process.ppid(), int(process.create_time() * 100)
    except psutil.Error:
        return None
    try:
        return Stat(state, parent, os.getpgid(pid), os.getsid(pid), started)
    except OSError:
        return Stat(state, parent, 0, 0, started)


def _usage_by_psutil(pid: int) -> tuple[float, int] | None:
    # Only where /proc does not answer: importing it would double what `status` costs.
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return None


def is_marked(pid: int, marks: tuple[bytes, ...]) -> bool:
    """Tell whether an entry of *pid*'s environment begins with one of *marks* (same user, or root)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(entry.startswith(marks) for entry in file.read().split(b"\0"))
    except OSError:
        return False


def all_pids() -> list[int]:
    """Return the pids of all processes that this process can see."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []

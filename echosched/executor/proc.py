"""What the kernel says about processes: identity, kin, and how strangers ended."""

from __future__ import annotations

import os
import signal
import struct
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_PIDFD_GET_INFO = 0xC000FF0B  # ioctl number without its size field
_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, first version: mask, cgroup, eleven ids, wait status
_INFO_EXIT = 1 << 3


class Stat(NamedTuple):
    """The fields of ``/proc/PID/stat`` that matter here; *status* is a wait status, of zombies only."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int
    status: int

    @property
    def dead(self) -> bool:
        """Tell whether nothing of it runs any more (a zombie)."""
        return self.state in "ZXx"


def read_stat(pid: int) -> Stat | None:
    """Return what is known of *pid*, ``None`` if there is no such process (or no /proc)."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            line = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    # The command's name may hold blanks and parentheses: fields are counted from the last one.
    fields = line[line.rfind(b")") + 2 :].split()
    return Stat(
        pid,
        fields[0].decode("ascii"),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[19]),
        int(fields[49]) if len(fields) > 49 else 0,
    )


def newest_pid() -> int:
    """Return the number that was given out last, 0 where that cannot be known."""
    try:
        descriptor = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 128).split()[-1])
        finally:
            os.close(descriptor)
    except (OSError, ValueError, IndexError):
        return 0


def start_ticks(pid: int) -> int:
    """Return when *pid* started, in clock ticks since boot; 0 where that cannot be known."""
    stat = read_stat(pid)
    return 0 if stat is None else stat.start_ticks


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd, ``None`` where there is no such process or the system has none to give."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def exit_status(pidfd: int | None, pid: int) -> int | None:
    """Return how a process that is not our child ended, where the kernel tells.

    Like :func:`os.waitstatus_to_exitcode`: an exit code, or minus a signal's number. From
    PIDFD_GET_INFO (Linux 6.15+, also after it was reaped), else from the stat of a zombie (same user).
    """
    if pidfd is not None:
        import fcntl

        # The kernel clears what it cannot answer: the question is filled in anew for each call.
        buffer = bytearray(_INFO.size)
        struct.pack_into("=Q", buffer, 0, _INFO_EXIT)
        try:
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO | _INFO.size << 16, buffer)
        except OSError:
            pass
        else:
            answer = _INFO.unpack(buffer)
            if answer[0] & _INFO_EXIT:
                return os.waitstatus_to_exitcode(answer[13])
    stat = read_stat(pid)
    if stat is None or not stat.dead:
        return None
    # Without the right to look, the kernel shows 0 for every process: that is no knowledge.
    if stat.status == 0 and not _may_see(pid):
        return None
    return os.waitstatus_to_exitcode(stat.status)


def _may_see(pid: int) -> bool:
    try:
        return os.geteuid() in (0, os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return False


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11; real-time signals and unknown ones by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"

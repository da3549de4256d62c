"""Trying out what this host allows: each probe does the real thing, once, and cleans up after itself.

Asking for versions would be shorter and wrong: a container, a seccomp filter or a mount option takes away
what the kernel's number promises.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

from echosched.daemon import proc

PATIENCE_SECONDS = 5.0
_PR_GET_CHILD_SUBREAPER = 37
_PR_GET_PDEATHSIG = 2
_CLOCK_REALTIME = 0
_TFD_ABSTIME_AND_CANCEL = 3
_STA_UNSYNC = 0x0040
NETWORK_FILESYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p afs ceph glusterfs lustre fuse.sshfs fuse.s3fs fuse.gcsfuse".split()
)


class Detached(NamedTuple):
    """What became of a process that detached: *alive* after *seconds*, adopted by process *parent*."""

    alive: bool
    parent: int
    seconds: float


def detaching(seconds: float = 0.5) -> Detached:
    """Detach a process as the daemon does, and see whether it still lives *seconds* after its starter is gone."""
    reading, writing = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setsid()
            if os.fork() == 0:
                _be_detached(writing, seconds)
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    try:
        ready, _, _ = select.select([reading], [], [], seconds + PATIENCE_SECONDS)
        data = os.read(reading, 64) if ready else b""  # end-of-file: it was killed
    finally:
        os.close(reading)
    return Detached(bool(data), int(data or 0), time.monotonic() - begun)


def _be_detached(writing: int, seconds: float) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    time.sleep(seconds)
    os.write(writing, b"%d" % os.getppid())
    os._exit(0)


def lock_excludes(directory: str) -> bool:
    """Tell whether ``flock`` in *directory* keeps a second process out. Raises ``OSError`` where it cannot be tried."""
    descriptor, path = tempfile.mkstemp(prefix=".echosched-probe-", dir=directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child = os.fork()
        if child == 0:
            code = 2
            try:
                other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    code = 1  # it came in as well
                except BlockingIOError:
                    code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        os.close(descriptor)
        os.unlink(path)


def socket_binds(directory: str) -> str | None:
    """Return why no Unix socket can be made in *directory*, ``None`` if one can."""
    path = os.path.join(directory, f".echosched-probe-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.bind(path)
        except OSError as error:
            return error.strerror or str(error)
    os.unlink(path)
    return None


def filesystem(path: str) -> str:
    """Return the type of the filesystem that *path* lies on, empty where that cannot be known."""
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" - ", 1) for line in file]
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for before, after in reversed(mounts):
        if before.split()[2] == wanted:
            return after.split()[0]
    return _longest_mount(path, mounts)


def _longest_mount(path: str, mounts: list[list[str]]) -> str:
    # btrfs and overlay give files another device number than their mount has.
    path = os.path.realpath(path)
    best, kind = "", ""
    for before, after in mounts:
        point = before.split()[4]
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


# ── kernel features ───────────────────────────────────────────────────────────────────────────


def pidfd() -> bool:
    """Tell whether processes can be watched and signalled by descriptor."""
    try:
        descriptor = os.pidfd_open(os.getpid())
    except (OSError, AttributeError):
        return False
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except (OSError, AttributeError):
        return False
    finally:
        os.close(descriptor)
    return True


def pidfd_tells_exit(exit_status: Callable[[int, int], int | None]) -> bool:
    """Tell whether a pidfd still gives the exit code of a process that somebody else has reaped (Linux 6.15+).

    *exit_status(pidfd, pid)* is how jobs are asked after.
    """
    child = os.fork()
    if child == 0:
        os._exit(7)
    try:
        descriptor = os.pidfd_open(child)
    except (OSError, AttributeError):
        os.waitpid(child, 0)
        return False
    try:
        os.waitpid(child, 0)
        return exit_status(descriptor, child) == 7
    finally:
        os.close(descriptor)


def timerfd() -> bool:
    """Tell whether a timer on the wall clock reports at once when that clock is set."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        return False
    descriptor = libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return False
    try:
        spec = struct.pack("@qqqq", 0, 0, 253_402_300_799, 0)
        return bool(libc.timerfd_settime(descriptor, _TFD_ABSTIME_AND_CANCEL, spec, None) == 0)
    finally:
        os.close(descriptor)


def subreaper() -> bool:
    """Tell whether orphans can be made to come back to the supervisor."""
    return _prctl_answers(_PR_GET_CHILD_SUBREAPER)


def parent_death_signal() -> bool:
    """Tell whether a worker can be made to end with its supervisor."""
    return _prctl_answers(_PR_GET_PDEATHSIG)


def _prctl_answers(option: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_int(0)
    return hasattr(libc, "prctl") and libc.prctl(option, ctypes.byref(value), 0, 0, 0) == 0


def processes_visible() -> bool:
    """Tell whether /proc shows other processes of this user and their environments (jobs are found by marks there)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent has looked
        os._exit(0)
    os.close(reading)
    try:
        with open(f"/proc/{child}/environ", "rb") as environ:
            environ.read()
        return proc.start_ticks(child) is not None and child in proc.all_pids()
    except OSError:
        return False
    finally:
        os.close(writing)
        os.waitpid(child, 0)


# ── clocks ────────────────────────────────────────────────────────────────────────────────────


class Discipline(NamedTuple):
    """Whether the kernel's wall clock is kept right by somebody, and how far off it may be at most, in seconds."""

    synchronized: bool
    error_seconds: float


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>, as far as it is read; the kernel fills the whole of it.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def discipline() -> Discipline | None:
    """Return what the kernel knows of its clock's accuracy, ``None`` where it does not say. Changes nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex"):
        return None
    state = _Timex(modes=0)
    if libc.adjtimex(ctypes.byref(state)) < 0:
        return None
    return Discipline(not state.status & _STA_UNSYNC, state.maxerror / 1e6)


def marked(mark: str) -> list[int]:
    """Return the processes whose environment has an entry that begins with *mark* (as far as we may look)."""
    marks = (mark.encode(),)
    return [pid for pid in proc.all_pids() if proc.is_marked(pid, marks)]

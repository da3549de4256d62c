"""A lock file: ``flock`` on a file that holds ``PID\\n``; the part that needs no library.

The truth about "is it running" is the lock, which the kernel drops with its last holder; the number
is for people and scripts. Three things could break that, each met here:

- the file is replaced between open and flock: compare inodes after locking, try again;
- a symbolic link leads elsewhere: O_NOFOLLOW;
- a look (``is_held``) takes a shared lock for a moment: whoever fails to lock tries again a little
  later before believing it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def take(path: str, mode: int = 0o644) -> int | None:
    """Return a descriptor that holds the exclusive lock on *path*, or ``None`` when another has it.

    The file is created when missing; its content is left alone. Raises ``OSError`` for what cannot
    be a lock file (a directory, a link, no permission).
    """
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode
        )
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if is_same_file(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last holder removed it while we waited: the lock of a ghost


def take_patiently(path: str, mode: int = 0o644, *, attempts: int = 4) -> int | None:
    """Like :func:`take`, not deceived by somebody who only looks whether the lock is held."""
    for attempt in range(attempts):
        descriptor = take(path, mode)
        if descriptor is not None or attempt == attempts - 1:
            return descriptor
        time.sleep(0.01)
    return None


def is_held(path: str) -> bool | None:
    """Tell whether a process holds the lock on *path*; ``None`` when the file may not be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared: two who look at once do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def write_pid(descriptor: int, pid: int | None) -> None:
    """Make the file hold ``PID\\n`` (``None``: nothing), durably. Only the holder may."""
    # Shortest moment without a number: overwrite, then cut what is left of a longer old one.
    text = b"" if pid is None else b"%d\n" % pid
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)


def parse_pid(data: bytes) -> int | None:
    """Return the pid in the content of a pidfile, ``None`` for anything else."""
    text = data.strip()
    if not text.isdigit() or len(text) > 10:
        return None
    return int(text) or None


def read_pid(path: str) -> int | None:
    """Return the pid in the file at *path*; ``None`` when missing, unreadable, empty or not a number."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return parse_pid(os.read(descriptor, 64))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def pid_in(descriptor: int) -> int | None:
    """Return the pid in the file that *descriptor* holds, without moving its position."""
    return parse_pid(os.pread(descriptor, 64, 0))


def remove(path: str, descriptor: int, pid: int) -> bool:
    """Remove the file that *descriptor* holds locked, if it still is *path* and still holds *pid*.

    The lock stays until the descriptor is closed, so nobody can take a file that is about to go.
    """
    if pid_in(descriptor) != pid or not is_same_file(path, descriptor):
        return False
    try:
        os.unlink(path)
    except OSError:
        # A directory that belongs to root after privileges were dropped: leave an empty file behind. On a
        # filesystem gone read-only not even that; the lock ends with the process, which must not stay for it.
        try:
            write_pid(descriptor, None)
        except OSError:
            pass
        return False
    return True


def is_same_file(path: str, descriptor: int) -> bool:
    """Tell whether *path* names the very file that *descriptor* has open."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


class HeldLocks:
    """The locks a supervisor inherited, the pidfile's first; it holds them for the daemon's whole life."""

    __slots__ = ("_entries",)

    def __init__(self, entries: list[list[Any]]) -> None:
        """Take over ``[path, descriptor]`` pairs from the hand-over; no child inherits them from here on."""
        self._entries: list[tuple[str, int]] = [(path, descriptor) for path, descriptor in entries]
        for descriptor in self.descriptors():
            os.set_inheritable(descriptor, False)

    def as_list(self) -> list[list[Any]]:
        """Return the pairs for the next hand-over."""
        return [[path, descriptor] for path, descriptor in self._entries]

    def descriptors(self) -> list[int]:
        """Return the descriptors that hold the locks."""
        return [descriptor for _, descriptor in self._entries]

    def keep(self, complain: Callable[[str], None]) -> None:
        """Lock anew what somebody removed: a file without a name keeps no second daemon away."""
        for index, (path, descriptor) in enumerate(self._entries):
            try:
                if is_same_file(path, descriptor):
                    continue
                fresh = take(path)
                if fresh is None:
                    complain(f"{path}: was removed, and another process holds a new one")
                    continue
                write_pid(fresh, os.getpid())
            except OSError as error:
                complain(f"{path}: was removed and cannot be made anew: {error.strerror}")
                continue
            os.close(descriptor)
            self._entries[index] = (path, fresh)
            complain(f"{path}: had been removed; made anew")

    def remove(self) -> None:
        """Remove the files that still are ours, the pidfile last; the locks stay until the process ends."""
        for path, descriptor in reversed(self._entries):
            remove(path, descriptor, os.getpid())

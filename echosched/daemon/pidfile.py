"""The pidfile as a ``lockfile`` lock: usable by anything that takes one, python-daemon first of all.

Unlike the library's own ``PIDLockFile`` it is a kernel lock on the pidfile itself, so that a stale file
cannot exist: whoever holds the lock lives. It must survive what a daemon does to itself:

- taken before detaching, it goes with the open file over forks; ``acquire`` again in the final process
  writes that process's pid (DaemonContext does so by entering it);
- a child forked later inherits the descriptor, but neither releases nor removes what is not its own;
- over ``exec`` the new program takes the descriptor over with :meth:`PIDFile.adopt`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from lockfile import AlreadyLocked, LockBase, LockFailed, LockTimeout, NotLocked, NotMyLock

from echosched.daemon import lock

POLL_SECONDS = 0.05


class PIDFile(LockBase):  # type: ignore[misc]  # lockfile is untyped
    """An exclusive lock on a file that holds ``PID\\n`` and nothing else, held for a daemon's whole life.

    Raises lockfile's errors: ``AlreadyLocked``, ``LockTimeout``, ``LockFailed``, ``NotLocked``,
    ``NotMyLock``. The file is made with mode 0644 (anybody may read a pid), never through a symbolic link.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threaded: bool = False,
        timeout: float | None = 0,
        *,
        mode: int = 0o644,
    ) -> None:
        """Prepare a lock on *path*; *timeout* seconds for ``acquire`` (``None``: for ever; 0: at once).

        *threaded* is there for the library's signature; the lock belongs to the process. *mode* is that of a
        file made anew.
        """
        # Absolute: a daemon changes its working directory between acquire and release.
        super().__init__(os.path.abspath(os.fspath(path)), threaded=False, timeout=timeout)
        self.lock_file = self.path
        self._mode = mode
        self._descriptor: int | None = None
        self._owner: int | None = None
        self.stale_pid: int | None = None

    @classmethod
    def adopt(cls, path: str | os.PathLike[str], descriptor: int) -> PIDFile:
        """Return the lock that *descriptor*, inherited over ``exec``, already holds."""
        pidfile = cls(path)
        os.set_inheritable(descriptor, False)
        pidfile._descriptor = descriptor
        pidfile._owner = os.getpid()
        return pidfile

    def fileno(self) -> int:
        """Return the descriptor that holds the lock (python-daemon preserves it by asking)."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked by this object")
        return self._descriptor

    def acquire(self, timeout: float | None = None, *, write: bool = True) -> None:
        """Take the lock and write this process's pid; again: write the pid anew.

        With ``write=False`` the file is emptied instead: whoever will be the daemon writes later.
        """
        if self._descriptor is None:
            self._descriptor = self._take(self.timeout if timeout is None else timeout)
            # Left by a holder that did not come to remove the file: dead, since we have the lock.
            self.stale_pid = lock.pid_in(self._descriptor)
        self._owner = os.getpid()
        try:
            lock.write_pid(self._descriptor, self._owner if write else None)
        except OSError as error:
            raise LockFailed(f"{self.path}: {error.strerror}") from error

    def release(self) -> None:
        """Remove the file, if it still is ours, and let the lock go.

        In a process forked from the holder: only forget, the lock stays with its owner.
        """
        if self._descriptor is None:
            if self.is_locked():
                raise NotMyLock(f"{self.path} is locked by another process")
            raise NotLocked(f"{self.path} is not locked")
        descriptor, self._descriptor = self._descriptor, None
        if self._owner == os.getpid():
            lock.remove(self.path, descriptor, self._owner)
        # No LOCK_UN, ever: in a forked child it would drop the parent's lock as well.
        os.close(descriptor)

    def forget(self) -> None:
        """Close this process's copy of the descriptor; the lock stays with whoever inherited it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_locked(self) -> bool:
        """Tell whether any process, this one included, holds the lock."""
        return self._descriptor is not None or bool(lock.is_held(self.path))

    def i_am_locking(self) -> bool:
        """Tell whether this process holds the lock."""
        return self._descriptor is not None and self._owner == os.getpid()

    def read_pid(self) -> int | None:
        """Return the pid in the file, ``None`` when there is none."""
        return lock.read_pid(self.path)

    def break_lock(self) -> None:
        """Refuse to break a lock that a living process holds; remove a file that nobody holds."""
        descriptor = lock.take_patiently(self.path, self._mode)
        if descriptor is None:
            raise LockFailed(
                f"{self.path} is locked by process {self.read_pid()}, which lives (stop it first)"
            )
        os.unlink(self.path)
        os.close(descriptor)

    def __enter__(self) -> PIDFile:
        """Acquire, and return the lock."""
        self.acquire()
        return self

    def __exit__(self, *_details: Any) -> None:
        """Release, if held."""
        if self._descriptor is not None:
            self.release()

    def __repr__(self) -> str:
        return f"PIDFile({self.path!r})"

    def _take(self, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                descriptor = lock.take_patiently(self.path, self._mode)
            except OSError as error:
                raise LockFailed(f"{self.path}: {error.strerror}") from error
            if descriptor is not None:
                return descriptor
            if deadline is not None and time.monotonic() >= deadline:
                pid = self.read_pid()
                who = f"process {pid}" if pid else "another process"
                if timeout is not None and timeout > 0:
                    raise LockTimeout(f"{self.path} is still locked by {who}")
                raise AlreadyLocked(f"{self.path} is locked by {who}")
            time.sleep(POLL_SECONDS)

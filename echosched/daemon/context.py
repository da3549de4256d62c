"""Becoming a daemon: python-daemon's ``DaemonContext`` with safe defaults.

What differs from the parent class, and why:

- ``detach_process`` is true unless said otherwise: its guess stays silently in the foreground where stdin
  is a socket (ssh, Node) or the parent is process 1 (a container's shell);
- umask 0o027 instead of 0;
- descriptors 0-2 closed at launch are repaired first (it fails on them with an AttributeError);
- stderr and stdout may go to a file by name: what the daemon says is not lost;
- privileges are given up last, after pidfile and files are open, with all supplementary groups;
- the starting process waits until the daemon is ready and fails when it fails;
- a descriptor limit of 2^30 costs nothing, also with version 2.3.2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

from echosched.daemon import logfiles, readiness

_SMALL_LIMIT = 4096


def _import_python_daemon() -> Any:
    """Import python-daemon without the set of every possible descriptor that 2.3.2 builds.

    At a limit of 2^30 that set takes 13 s and 2 GB. It is made of the limit seen at import, so the
    import sees a small one; :meth:`DaemonContext._get_exclude_file_descriptors` closes the rest.
    """
    import resource

    real = resource.getrlimit
    if "daemon.daemon" in sys.modules:
        import daemon

        return daemon
    resource.getrlimit = lambda which: (
        (_SMALL_LIMIT, _SMALL_LIMIT) if which == resource.RLIMIT_NOFILE else real(which)
    )
    try:
        import daemon
        import daemon.daemon
    finally:
        resource.getrlimit = real
    return daemon


_Base: Any = _import_python_daemon().DaemonContext


class DaemonContext(_Base):  # type: ignore[misc]  # python-daemon is untyped
    """A context in which this program is a well-behaved daemon.

    ``with DaemonContext(pidfile=PIDFile("jobs.pid")): …`` detaches; the starting process leaves with
    exit code 0 once the context is open (with *wait_ready*: once :meth:`ready` was called), or with
    the reason on stderr and exit code 1.

    A :class:`~echosched.daemon.pidfile.PIDFile` is locked before detaching: a second daemon learns at its
    terminal that there is one (``lockfile.AlreadyLocked``). *out* names a file for stdout and stderr;
    *uid* and *gid* are taken on at the very end. *leave_launcher* ``False`` is for a launcher that forks
    and waits by itself.
    """

    def __init__(
        self,
        *,
        pidfile: Any = None,
        out: str | os.PathLike[str] | None = None,
        detach_process: bool = True,
        wait_ready: bool = False,
        umask: int = 0o027,
        working_directory: str | os.PathLike[str] = "/",
        chroot_directory: str | os.PathLike[str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        initgroups: bool = True,
        prevent_core: bool = True,
        files_preserve: Iterable[Any] | None = None,
        stdin: IO[Any] | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        signal_map: Mapping[int, Any] | None = None,
        leave_launcher: bool = True,
    ) -> None:
        repair_standard_streams()
        super().__init__(
            chroot_directory=None if chroot_directory is None else os.path.abspath(chroot_directory),
            working_directory=os.fspath(working_directory),
            umask=umask,
            prevent_core=prevent_core,
            detach_process=detach_process,
            files_preserve=list(files_preserve or ()),
            pidfile=pidfile,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            signal_map=None if signal_map is None else dict(signal_map),
        )
        self.out = None if out is None else os.path.abspath(out)
        self.wait_ready = wait_ready
        self.stdout: IO[Any] | None = stdout
        self.stderr: IO[Any] | None = stderr
        self._target = (uid, gid, initgroups)
        self._leave_launcher = leave_launcher
        self._ready_fd: int | None = None
        self._out_stream: IO[Any] | None = None

    def open(self) -> None:
        """Become the daemon. Returns in the daemon only; the starting process leaves here."""
        if self.is_open:
            return
        if self.out is not None:
            self._open_out()
        self._lock_early()
        flush_standard_streams()
        if self.detach_process and self._leave_launcher:
            self._fork_and_wait()
        try:
            super().open()
            self._close_out()
            self._drop_privileges()
        except BaseException as error:
            self._tell_failure(error)
            raise
        if not self.wait_ready:
            self.ready()

    def close(self) -> None:
        """Leave the context: release the pidfile. In processes forked from the daemon: do nothing."""
        super().close()

    def ready(self) -> None:
        """Tell the waiting starter that the daemon is able to serve. Later calls do nothing."""
        if self._ready_fd is not None:
            readiness.tell_ready(self._ready_fd, os.getpid())
            self._ready_fd = None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Leave; an error that prevents readiness is told at the terminal."""
        if error is not None:
            self._tell_failure(error)
        super().__exit__(kind, error, trace)

    # ── inside ────────────────────────────────────────────────────────────────────────────────

    def _open_out(self) -> None:
        descriptor = os.open(str(self.out), logfiles.APPEND, 0o640)
        stream = os.fdopen(descriptor, "ab", buffering=0)
        self._out_stream = stream
        if self.stdout is None:
            self.stdout = stream
        if self.stderr is None:
            self.stderr = stream

    def _close_out(self) -> None:
        """Close what has become 1 and 2."""
        if self._out_stream is not None:
            self._out_stream.close()
            self._out_stream = None

    def _lock_early(self) -> None:
        from echosched.daemon.pidfile import PIDFile

        if isinstance(self.pidfile, PIDFile) and self.detach_process and not self.pidfile.i_am_locking():
            self.pidfile.acquire(write=False)

    def _fork_and_wait(self) -> None:
        reading, writing = readiness.pipe()
        start = readiness.size_of(self.out)
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._ready_fd = writing
            return
        os.close(writing)
        document = readiness.wait(reading)
        os.waitpid(child, 0)
        if document is not None and document.get("ready"):
            os._exit(0)
        message = document["message"] if document else "the daemon ended before it was ready"
        said = "" if document else readiness.tail(self.out, start)
        os.write(2, (message + (f":\n{said}" if said else "") + "\n").encode())
        os._exit(document["exit_code"] if document else 1)

    def _tell_failure(self, error: BaseException) -> None:
        if self._ready_fd is None:
            return
        code = 1
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        message = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        readiness.tell_failure(self._ready_fd, code or 1, message)
        self._ready_fd = None

    def _get_exclude_file_descriptors(self) -> set[int]:
        """Return what the parent class must leave open, having closed all the rest ourselves.

        It is called right before the parent class closes everything below the limit it saw at import.
        """
        kept: set[int] = super()._get_exclude_file_descriptors()
        if self._ready_fd is not None:
            kept.add(self._ready_fd)
        if self.pidfile is not None and hasattr(self.pidfile, "fileno"):
            try:
                kept.add(self.pidfile.fileno())
            except ValueError:  # not locked yet
                pass
        # 0-2 stay: the parent class closes and then redirects them, which dup2 does by itself, and
        # an error between the two would have nowhere to go.
        kept |= {0, 1, 2}
        close_strays(kept)
        return kept

    def _drop_privileges(self) -> None:
        uid, gid, initgroups = self._target
        if uid is not None or gid is not None:
            from echosched.daemon.privileges import drop

            drop(
                os.getuid() if uid is None else uid,
                os.getgid() if gid is None else gid,
                initgroups=initgroups,
            )


def close_strays(kept: set[int]) -> None:
    """Close every descriptor of this process but *kept*; costs as much as there are open ones."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:  # no /proc: the kernel closes a range of any length at once
        low = 3
        for descriptor in [*sorted(fd for fd in kept if fd >= low), 1 << 30]:
            os.closerange(low, descriptor)
            low = descriptor + 1
        return
    for descriptor in map(int, names):
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:  # the listing's own
                continue


def repair_standard_streams() -> None:
    """Give descriptors 0-2 that were closed at launch a life as /dev/null, and ``sys.std*`` with them.

    Otherwise the next files opened would become stdin, stdout and stderr, and receive what is
    printed; Python leaves ``sys.stdin`` and the like ``None`` then.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None or getattr(sys, name).closed:
            stream = os.fdopen(number, mode, closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def flush_standard_streams() -> None:
    """Flush before forking: what is still buffered would be written twice."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue

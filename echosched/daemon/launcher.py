"""Starting a daemon: every error that can be known is known here, at the terminal.

The order matters (DESIGN §2)::

    repair descriptors · directories · journal and .out · database lock · pidfile lock
    ─ detached: fork ─ the parent waits on the readiness pipe and returns ─ the child double-forks
    pid into the pidfile · privileges · exec of the supervisor

Both locks are taken before forking, so a loser learns it here; it then waits for the winner.
"""

from __future__ import annotations

import os
import sys
import time

from echosched.daemon import context, handover, lock, logfiles, privileges, readiness, statefile
from echosched.errors import EX_ERROR, EX_PRIVILEGE, AlreadyRunning, DaemonError, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from echosched.daemon.pidfile import PIDFile
    from echosched.daemon.settings import Paths, Settings

POLL_SECONDS = 0.02
SOCKET_PATH_BYTES = 107
FILES_UMASK = 0o022


class Outcome:
    """What became of a ``start``: *pid* is the daemon's; *already* tells that it had been running before."""

    __slots__ = ("already", "pid")

    def __init__(self, pid: int, *, already: bool) -> None:
        self.pid = pid
        self.already = already


def launch(
    settings: Settings,
    *,
    foreground: bool = False,
    exclusive: bool = False,
    force: bool = False,
    supervise: bool = True,
    wait: float | None = None,
) -> Outcome:
    """Start the daemon; return when it is ready, or is running already.

    In the *foreground* (and without *supervise*, for debugging) this process becomes the daemon and the
    call does not return. *exclusive*: a running daemon is an error. *force*: a running one is
    stopped first. *wait* seconds (default ``start_wait``) bound the wait for another starter.

    Raises ``AlreadyRunning``; ``StartFailed`` with the daemon's own reason and exit code;
    ``DaemonError`` for directories, locks and accounts.
    """
    context.repair_standard_streams()
    deadline = time.monotonic() + (settings.start_wait if wait is None else wait)
    settings.mode = "foreground" if foreground or not supervise else "background"
    while True:
        files = _Files(settings)
        if files.take(settings):
            return _become(settings, files, supervise=supervise)
        if force:
            from echosched.daemon.control import stop_daemon

            stop_daemon(settings.paths, timeout=settings.grace + 15, force=False)
            force = False
            continue
        if exclusive:
            pid = lock.read_pid(settings.paths.pidfile)
            raise AlreadyRunning(
                f"{settings.paths.pidfile}: already running{f' (pid {pid})' if pid else ''}", pid=pid
            )
        pid = _await_winner(settings.paths, deadline)
        if pid is not None:
            return Outcome(pid, already=True)


def wait_ready(paths: Paths, timeout: float) -> int | None:
    """Wait until the daemon of *paths* (started by anybody) is ready; return its pid, ``None`` if it is not.

    A daemon that is not there yet may come: ``None`` is returned only when the time is over.
    """
    deadline = time.monotonic() + timeout
    while True:
        pid = ready_pid(paths)
        if pid is not None or time.monotonic() >= deadline:
            return pid
        time.sleep(POLL_SECONDS)


def ready_pid(paths: Paths) -> int | None:
    """Return the pid of the running daemon if it has said READY, else ``None``."""
    pid = lock.read_pid(paths.pidfile)
    document = statefile.read(paths.state)
    if document is None or document.get("ended") or not document.get("ready_micros"):
        return None
    return pid if statefile.describes(document, pid) else None


def _await_winner(paths: Paths, deadline: float) -> int | None:
    """Return the winner's pid once it is ready; ``None`` when it let go of the lock (try again)."""
    while True:
        pid = ready_pid(paths)
        if pid is not None:
            return pid
        if lock.is_held(paths.pidfile) is False:
            return None
        if time.monotonic() >= deadline:
            pid = lock.read_pid(paths.pidfile)
            state = statefile.read(paths.state)
            if state is not None and pid is not None and not statefile.is_same_world(state):
                # A daemon in another container, seen through a shared directory: it cannot be watched.
                return pid
            who = f"process {pid}" if pid else "another starter"
            raise AlreadyRunning(f"{paths.pidfile}: held by {who}, which is not ready (see status)", pid=pid)
        time.sleep(POLL_SECONDS)


class _Files:
    """What is opened and locked before detaching."""

    def __init__(self, settings: Settings) -> None:
        from echosched.daemon.pidfile import PIDFile

        self.owner = privileges.account(settings.user, settings.group)
        self.pidfile: PIDFile = PIDFile(settings.paths.pidfile)
        place = settings.paths.db_lock
        self.db_lock: PIDFile | None = PIDFile(place, mode=0o640) if place else None

    def take(self, settings: Settings) -> bool:
        """Make directories and files, take the locks; ``False`` when the pidfile is another daemon's."""
        # Their modes are ours to say, whatever the shell of whoever starts us would leave of them.
        before = os.umask(FILES_UMASK)
        try:
            return self._take(settings)
        finally:
            os.umask(before)

    def _take(self, settings: Settings) -> bool:
        from lockfile import AlreadyLocked, LockFailed

        paths = settings.paths
        if paths.socket is not None and len(os.fsencode(paths.socket)) > SOCKET_PATH_BYTES:
            raise DaemonError(
                f"{paths.socket}: longer than a socket's path may be ({SOCKET_PATH_BYTES} bytes)"
            )
        try:
            privileges.prepare_directories(settings, self.owner)
        except OSError as error:
            raise _refused(error, error.filename) from error
        try:
            self.pidfile.acquire(write=False)
        except AlreadyLocked:
            return False
        except LockFailed as error:
            raise _refused(error.__cause__, str(error)) from error
        try:
            if self.db_lock is not None:
                self.db_lock.acquire(write=False)
            for path in (paths.log, None if settings.foreground else paths.out):
                if path is not None:
                    os.close(os.open(path, logfiles.APPEND, 0o640))
                    privileges.give(path, self.owner)
            database = (
                [] if paths.db is None else [paths.db + suffix for suffix in ("", "-wal", "-shm", ".lock")]
            )
            for path in (paths.pidfile, paths.beat, paths.state, *database):
                privileges.give(path, self.owner)
        except AlreadyLocked:
            pid = lock.read_pid(str(paths.db_lock))
            self.release()
            who = f"daemon {pid}" if pid else "another daemon"
            raise AlreadyRunning(
                f"{paths.db}: in use by {who} (choose another --db, or stop that one)", pid=pid
            ) from None
        except LockFailed as error:
            self.release()
            raise _refused(error.__cause__, str(error)) from error
        except OSError as error:
            self.release()
            raise _refused(error, error.filename) from error
        return True

    def all(self) -> list[PIDFile]:
        """Return the locks, the pidfile's first."""
        return [self.pidfile] if self.db_lock is None else [self.pidfile, self.db_lock]

    def release(self) -> None:
        """Give everything back (the files are empty: nobody reads a number from them)."""
        for pidfile in self.all():
            if pidfile.i_am_locking():
                pidfile.acquire()
                pidfile.release()

    def forget(self) -> None:
        """Close the parent's copies once the child has its own."""
        for pidfile in self.all():
            pidfile.forget()


def _become(settings: Settings, files: _Files, *, supervise: bool) -> Outcome:
    if settings.foreground:
        try:
            _prepare_foreground(settings, files)
            _exec(settings, files, None, supervise=supervise)
        except DaemonError:
            files.release()
            raise
        except OSError as error:
            files.release()
            raise StartFailed(f"{error.filename or sys.executable}: {error.strerror}") from error
    context.flush_standard_streams()
    start = readiness.size_of(settings.paths.out)
    reading, writing = readiness.pipe()
    try:
        child = os.fork()
    except OSError as error:
        files.release()
        raise StartFailed(f"cannot start a process: {error.strerror} (see ulimit -u)") from error
    if child == 0:
        os.close(reading)
        _detach(settings, files, writing)
    os.close(writing)
    files.forget()
    document = readiness.wait(reading)
    os.close(reading)
    os.waitpid(child, 0)
    if document is None:
        said = readiness.tail(settings.paths.out, start)
        raise StartFailed("the daemon ended before it was ready" + (f":\n{said}" if said else ""))
    if not document.get("ready"):
        raise StartFailed(document["message"], exit_code=document["exit_code"])
    return Outcome(document["pid"], already=False)


def _detach(settings: Settings, files: _Files, ready_fd: int) -> NoReturn:
    """Become a daemon, then the supervisor. Never returns and never raises: this is a forked child."""
    try:
        daemon = context.DaemonContext(
            pidfile=files.pidfile,
            out=settings.paths.out,
            umask=settings.umask,
            working_directory=settings.working_directory,
            chroot_directory=settings.chroot,
            prevent_core=not settings.core_dumps,
            files_preserve=[ready_fd, *(pidfile.fileno() for pidfile in files.all())],
            leave_launcher=False,
        )
        daemon.open()
        _exec(settings, files, ready_fd, supervise=True)
    except BaseException as error:  # noqa: BLE001 - this process has no caller: the pipe is its only way to say why
        code = error.exit_code if isinstance(error, DaemonError) else EX_ERROR
        message = str(error) if isinstance(error, DaemonError) else f"cannot become a daemon: {error}"
        files.release()
        readiness.tell_failure(ready_fd, code, message)
    # Not sys.exit: the launcher's atexit handlers and buffers are the launcher's.
    os._exit(1)


def _prepare_foreground(settings: Settings, files: _Files) -> None:
    """Do for a foreground daemon what does not take its terminal away."""
    # Whatever this process inherited (a pipe of its parent, say) must not live on in jobs.
    context.close_strays({0, 1, 2, *(pidfile.fileno() for pidfile in files.all())})
    if settings.chroot is not None:
        os.chdir(settings.chroot)
        os.chroot(settings.chroot)
    if not settings.core_dumps:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(settings.umask)
    os.chdir(settings.working_directory)


def _exec(settings: Settings, files: _Files, ready_fd: int | None, *, supervise: bool) -> NoReturn:
    """Turn this process into the supervisor (or, for debugging, into the worker alone)."""
    if settings.chroot is not None:
        _move_inside(settings, files)
    for pidfile in files.all():
        pidfile.acquire()  # now, in the final process: its pid
    if files.owner is not None:
        # Before, not after: without root's rights nobody could take the pidfile away again.
        _check_writable(settings, files.owner)
        privileges.drop(files.owner.uid, files.owner.gid)
    document = {
        "settings": settings.as_dict(),
        "locks": [[pidfile.path, pidfile.fileno()] for pidfile in files.all()],
        "ready_fd": ready_fd,
        "stale_pid": files.pidfile.stale_pid,
    }
    descriptors = [pidfile.fileno() for pidfile in files.all()]
    if ready_fd is not None:
        descriptors.append(ready_fd)
    set_child_subreaper()
    context.flush_standard_streams()
    if not supervise:
        from echosched.daemon.solo import execute_alone

        execute_alone(document, descriptors)
    handover.execute(document, descriptors)


def set_child_subreaper() -> None:
    """Have orphans below this process become its children (Linux); the flag survives ``exec``."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    except (ImportError, OSError, AttributeError):
        return


def _move_inside(settings: Settings, files: _Files) -> None:
    """Rename everything as it is seen inside the chroot: given from outside, where ``status`` looks."""
    root = os.path.join(str(settings.chroot), "")

    def inside(path: str) -> str:
        return "/" + path[len(root) :] if path.startswith(root) else path

    for name in settings.paths.__slots__:
        path = getattr(settings.paths, name)
        if path is not None:
            if not path.startswith(root):
                raise DaemonError(f"{path}: outside of the chroot {settings.chroot} (move it inside)")
            setattr(settings.paths, name, inside(path))
    settings.worker_argv = [inside(argument) for argument in settings.worker_argv]
    for pidfile in files.all():
        pidfile.path = inside(pidfile.path)
    settings.chroot = None


def _check_writable(settings: Settings, owner: privileges.Account) -> None:
    """Raise ``DaemonError`` for a directory that *owner* could not write to."""
    paths = settings.paths
    files = (paths.state, paths.db, paths.log, paths.socket, paths.pidfile)
    directories = [os.path.dirname(path) for path in files if path]
    child = os.fork()
    if child == 0:  # the kernel is asked, as that account: groups and access lists count, too
        refused = len(directories)
        try:
            privileges.drop(owner.uid, owner.gid)
            able = [os.access(directory, os.W_OK | os.X_OK) for directory in directories]
            refused = [*able, False].index(False)
        finally:
            os._exit(refused)
    refused = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if 0 <= refused < len(directories):
        raise DaemonError(
            f"{directories[refused]}: not writable for {owner.name} (chown {owner.name} {directories[refused]})",
            exit_code=EX_PRIVILEGE,
        )


def _refused(error: BaseException | None, what: str | None) -> DaemonError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = what if what and reason and reason in what else f"{what}: {reason}"
    code = EX_PRIVILEGE if isinstance(error, PermissionError) else EX_ERROR
    return DaemonError(text, exit_code=code)


__all__ = ["Outcome", "launch", "ready_pid", "set_child_subreaper", "wait_ready"]

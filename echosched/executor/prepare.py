"""From an attempt to a :class:`~echosched.executor.spawn.Launch`, and from a failed start to its reason.

Runs in spawner threads: looking up accounts, programs and secrets may block.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace

from echosched.errors import ExecutionError
from echosched.executor import commandline, environment, function, limits, output
from echosched.executor.options import ExecutorOptions, Program
from echosched.executor.spawn import Launch
from echosched.model import DEFAULT_PROCESS, Attempt, CommandAction, Process, PythonAction

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Preparer:
    """Knows the daemon's side of a job's surroundings: defaults, base environment, instance, secrets."""

    def __init__(self, options: ExecutorOptions) -> None:
        self._instance = options.instance
        self._resolve = options.resolve
        self._defaults = options.defaults
        self._base = {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **(options.environment or {})}
        self._own = environment.own_account()

    def prepare(self, attempt: Attempt, program: Program | None = None) -> Launch:
        """Return how to start *attempt* (by *program*, if that does it); raises ``ExecutionError``.

        Opens nothing: it may be done long before the start, or in vain.
        """
        process = attempt.job.process
        if program is not None:
            # Part of the daemon: it reads what only the daemon's account may, wherever the job would run.
            process = Process(nice=process.nice)
        process = self._defaults if process is DEFAULT_PROCESS else merge(process, self._defaults)
        account = environment.account_of(process, self._own)
        env = environment.build_environment(
            attempt, process, account, self._base, self._instance, self._resolve
        )
        cwd = None if process.cwd is None else self._resolve(process.cwd)
        if cwd is None and account.change is not None:
            cwd = account.home if os.path.isdir(account.home) else "/"
        argv, stdin = self._argv(attempt) if program is None else (list(program.argv), program.stdin)
        path = find_program(argv[0], env.get("PATH", DEFAULT_PATH), cwd)
        if process.limits:
            limits.check(process.limits)
            argv = limits.behind(path, argv, process.limits, account.change)
            path, account = argv[0], replace(account, change=None)
        return Launch(
            path=_bytes(path),
            argv=[_bytes(word) for word in argv],
            env=[_bytes(f"{name}={value}") for name, value in env.items()],
            cwd=None if cwd is None else _bytes(cwd),
            output=None if attempt.output_path is None else _absolute(attempt.output_path),
            input=_bytes(stdin) if isinstance(stdin, str) else stdin,
            umask=process.umask,
            account=account.change,
            nice=process.nice,
        )

    def _argv(self, attempt: Attempt) -> tuple[list[str], str | bytes | None]:
        action = attempt.job.action
        if isinstance(action, CommandAction):
            stdin = None if action.stdin is None else self._resolve(action.stdin)
            return commandline.command_line(action, self._resolve), stdin
        if isinstance(action, PythonAction):
            args = [self._resolve(arg) if isinstance(arg, str) else arg for arg in action.args]
            try:
                return function.python_argv(action), json.dumps(args) if args else None
            except (TypeError, ValueError) as err:
                raise ExecutionError(f"python {action.target}: args: {err}") from err
        raise ExecutionError(f"{type(action).__name__} has no process")


def merge(process: Process, defaults: Process) -> Process:
    """Return *process* with *defaults* where it says nothing (environments are joined, the job's last)."""
    return Process(
        cwd=process.cwd if process.cwd is not None else defaults.cwd,
        env=defaults.env + process.env if defaults.env else process.env,
        env_file=process.env_file if process.env_file is not None else defaults.env_file,
        user=process.user if process.user is not None else defaults.user,
        group=process.group if process.group is not None else defaults.group,
        umask=process.umask if process.umask is not None else defaults.umask,
        nice=process.nice if process.nice is not None else defaults.nice,
        limits=process.limits or defaults.limits,
    )


def find_program(name: str, search: str, cwd: str | None) -> str:
    """Return the path of *name* along *search* (a PATH); raises ``ExecutionError``.

    A name with a slash is taken as it is: exec itself has the last word on it.
    """
    if "/" in name:
        return name
    found_unusable = None
    for directory in search.split(":") if name else ():
        path = os.path.join(directory or ".", name)
        if cwd is not None and not os.path.isabs(path):
            path = os.path.join(cwd, path)
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(mode):
            if os.access(path, os.X_OK):
                return path
            found_unusable = path
    if found_unusable is not None:
        raise ExecutionError(f"command not executable: {found_unusable}")
    raise ExecutionError(f"command not found: {name} (searched in {search})")


def as_file(data: bytes) -> int:
    """Return a descriptor from which a process reads *data*; nobody has to feed it, however long it is."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def refusal(err: OSError, launch: Launch) -> ExecutionError:
    """Return why *launch* could not be started."""
    path = None if launch.output is None else os.fsdecode(launch.output)
    if path is not None and err.errno in output.DISK_ERRORS and not os.path.exists(path):
        return output.refusal(path, err)
    return ExecutionError(explain(err, launch))


def explain(err: OSError, launch: Launch) -> str:
    """Return why *launch* could not be started: the kernel gives one number for many causes."""
    if err.filename == "nice":
        return f"nice {launch.nice}: {err.strerror}"
    program = os.fsdecode(launch.argv[0])
    cwd = None if launch.cwd is None else os.fsdecode(launch.cwd)
    path = None if launch.output is None else os.fsdecode(launch.output)
    if err.errno == errno.EEXIST and path is not None:
        return f"output file {path} exists: this attempt was begun before"
    if err.errno == errno.E2BIG:
        return f"{program}: arguments and environment are too long for the system"
    if err.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"no new process: {err.strerror} (the system is out of processes, memory or descriptors)"
    if cwd is not None and not os.path.isdir(cwd):
        return f"cwd {cwd}: not a directory" if os.path.exists(cwd) else f"cwd {cwd}: does not exist"
    if (null := _trouble_with_null(launch)) is not None:
        return null
    if path is not None and not os.path.exists(path):
        # Made before anything of the command is looked at: where it is missing, that is what failed.
        return f"output file {path}: {err.strerror}"
    if err.errno == errno.ENOENT:
        if os.path.exists(os.path.join(cwd or "", program)):
            return f"{program}: the interpreter that its first line names does not exist"
        return f"command not found: {program}"
    if err.errno in (errno.EACCES, errno.EPERM):
        if cwd is not None and not os.access(cwd, os.X_OK):
            return f"cwd {cwd}: {err.strerror}"
        return f"command not executable: {program} ({err.strerror})"
    return f"{program}: {err.strerror}"


def _trouble_with_null(launch: Launch) -> str | None:
    # What the child opens first of all; a chroot may lack it, and one that is mounted "nodev" lets nobody open it.
    if launch.stdin is not None and launch.output is not None:
        return None
    try:
        os.close(os.open(os.devnull, os.O_RDWR if launch.output is None else os.O_RDONLY))
    except OSError as err:
        return f"{os.devnull}: {err.strerror} (a job has it in place of input and output)"
    return None


def _absolute(path: str) -> bytes:
    # The child opens it before it changes directory, but nothing should rest on that order.
    return _bytes(path if path.startswith("/") else os.path.abspath(path))


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as err:
        raise ExecutionError(f"command: cannot be passed to a process: {err.reason}") from err


def refuse_nul(launch: Launch) -> None:
    """Raise ``ExecutionError`` where a string holds a NUL, at which the kernel would cut it off."""
    if b"\0" in b"".join(launch.argv):
        raise ExecutionError("command: an argument holds a NUL character")
    if b"\0" in b"".join(launch.env):
        names = [
            entry.partition(b"=")[0].decode("utf-8", "replace") for entry in launch.env if b"\0" in entry
        ]
        raise ExecutionError(f"env: {', '.join(names)} holds a NUL character")
    for path in (launch.cwd, launch.output):
        if path is not None and b"\0" in path:
            raise ExecutionError(f"{path!r}: a path cannot hold a NUL character")

"""Starting one process, with the least that has to be done for it.

Two ways. *posix_spawn* of the C library, called through ctypes: it lets go of the interpreter's lock
while the child is being made (``os.posix_spawn`` holds it, and a file action on a slow disk then stops
the whole daemon) and costs a third of ``subprocess``. It cannot change the account: that ``subprocess``
does (fork and exec in C). Umask and niceness belong to a thread on Linux: the one that spawns sets its own.

The output file is made exclusively, and before anything of the command runs: by the child as soon as it has its
stdin, or, where the account changes, by the parent before the fork. So *no file* proves that the command never
began (:func:`echosched.executor.output.never_started` rests on that).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OUTPUT_MODE = 0o640
OUTPUT_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

_CLONE_FS = 0x200
_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_OPAQUE = 1024  # larger than any libc's posix_spawnattr_t, posix_spawn_file_actions_t or sigset_t


@dataclass(slots=True)
class Launch:
    """All that the kernel needs to start one process. Paths and strings are bytes, ready for exec."""

    path: bytes
    argv: list[bytes]
    env: list[bytes]
    cwd: bytes | None = None
    output: bytes | None = None  # None: /dev/null
    input: bytes | None = None  # what the process reads; whoever spawns puts it behind stdin
    stdin: int | None = None  # a descriptor; None: /dev/null
    umask: int | None = None
    account: tuple[int, int, tuple[int, ...]] | None = None
    nice: int | None = None
    exclusive: bool = True
    call: _Call | None = None  # made ready before the start


class Spawner:
    """Starts processes from one thread, which it takes for itself (its umask becomes the jobs')."""

    def __init__(self) -> None:
        self._libc = _Libc.load()
        self._inherited = _current_umask()
        self._umask = self._inherited
        self._own_fs: bool | None = None  # None: not needed so far
        program_cwd = b"/proc/%d/cwd" % os.getpid()
        self._program_cwd = program_cwd if os.path.isdir(program_cwd) else None  # no /proc in a chroot

    def make_ready(self, launch: Launch) -> None:
        """Build what the C library wants to be told of *launch*, if nothing of it is open yet."""
        if self._libc is not None and launch.account is None and launch.input is None:
            if self._own_fs or self._wanted_umask(launch) != self._inherited:
                self._name_directory(launch)
            launch.call = _Call(self._libc, launch)

    def spawn(self, launch: Launch) -> int:
        """Start *launch* in a session of its own and return its pid; raises ``OSError``.

        Default signal dispositions, empty signal mask, no descriptor above 2.
        """
        own_umask = self._set_umask(self._wanted_umask(launch))
        if self._own_fs:
            self._name_directory(launch)
        spawn = _fork_exec
        if self._libc is not None and launch.account is None and own_umask:
            spawn = self._libc.spawn
        return spawn(launch) if launch.nice is None else _nicely(spawn, launch)

    def _wanted_umask(self, launch: Launch) -> int:
        return self._inherited if launch.umask is None else launch.umask

    def _name_directory(self, launch: Launch) -> None:
        # A thread with a umask of its own has a directory of its own too, which no chdir of the program reaches.
        if launch.cwd is None and self._program_cwd is not None:
            launch.cwd, launch.call = self._program_cwd, None

    def _set_umask(self, wanted: int) -> bool:
        if wanted == self._umask:
            return True
        if self._own_fs is None:
            # From here on umask (and directory) are this thread's own: a job's umask needs no fork path.
            self._own_fs = self._libc is not None and self._libc.unshare(_CLONE_FS) == 0
        if not self._own_fs:
            return False
        os.umask(wanted)
        self._umask = wanted
        return True


class _Libc:
    """The few functions of the C library, with buffers that are prepared once."""

    _instance: _Libc | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        quick = ctypes.PyDLL(None)  # keeps the interpreter's lock: these only fill structures
        slow = ctypes.CDLL(None)
        self._posix_spawn = slow.posix_spawn
        self.unshare: Any = slow.unshare
        self._init = quick.posix_spawn_file_actions_init
        self.destroy: Any = quick.posix_spawn_file_actions_destroy
        self._addopen = quick.posix_spawn_file_actions_addopen
        self._adddup2 = quick.posix_spawn_file_actions_adddup2
        self._addchdir = quick.posix_spawn_file_actions_addchdir_np
        # glibc 2.34+; elsewhere close-on-exec has to do, which is what Python sets on all its descriptors.
        self._addclosefrom = getattr(quick, "posix_spawn_file_actions_addclosefrom_np", None)
        self._attr = ctypes.create_string_buffer(_OPAQUE)
        signals = ctypes.create_string_buffer(_OPAQUE)
        quick.posix_spawnattr_init(self._attr)
        quick.posix_spawnattr_setflags(self._attr, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))
        quick.sigfillset(signals)
        quick.posix_spawnattr_setsigdefault(self._attr, signals)
        quick.sigemptyset(signals)
        quick.posix_spawnattr_setsigmask(self._attr, signals)

    @classmethod
    def load(cls) -> _Libc | None:
        """Return the one instance, ``None`` where the C library lacks what is needed."""
        if not sys.platform.startswith("linux"):
            return None
        with cls._lock:
            if cls._instance is None:
                try:
                    cls._instance = cls()
                except (AttributeError, OSError):
                    return None
            return cls._instance

    def spawn(self, launch: Launch) -> int:
        """Call posix_spawn; raises ``OSError`` with its error number."""
        call, launch.call = launch.call or _Call(self, launch), None
        pid = ctypes.c_int()
        failed = self._posix_spawn(
            ctypes.byref(pid), call.path, call.actions, self._attr, call.argv, call.env
        )
        if failed:
            raise OSError(failed, os.strerror(failed))
        return pid.value

    def add_actions(self, actions: Any, launch: Launch) -> int:
        """Fill *actions*, which is raw memory, with what the child does before its exec; return an error number."""
        if self._init(actions):
            return errno.ENOMEM
        # Order matters: stdin first (its source may be descriptor 1), directory last (paths are absolute).
        if launch.stdin is None:
            failed = self._addopen(actions, 0, b"/dev/null", os.O_RDONLY, 0)
        else:
            failed = self._adddup2(actions, launch.stdin, 0)
        if launch.output is None:
            failed = failed or self._addopen(actions, 1, b"/dev/null", os.O_WRONLY, 0)
        else:
            flags = OUTPUT_FLAGS & ~os.O_CLOEXEC
            if not launch.exclusive:
                flags &= ~os.O_EXCL
            failed = failed or self._addopen(actions, 1, launch.output, flags, OUTPUT_MODE)
        failed = failed or self._adddup2(actions, 1, 2)
        if launch.cwd is not None:
            failed = failed or self._addchdir(actions, launch.cwd)
        if self._addclosefrom is not None:
            failed = failed or self._addclosefrom(actions, 3)
        return int(failed)


class _Call:
    """The arguments of one posix_spawn."""

    __slots__ = ("_libc", "actions", "argv", "env", "path")

    def __init__(self, libc: _Libc, launch: Launch) -> None:
        self._libc = libc
        self.actions = ctypes.create_string_buffer(_OPAQUE)  # of zeros: may be destroyed as it is
        self.path = ctypes.c_char_p(launch.path)
        self.argv, self.env = _vector(launch.argv), _vector(launch.env)
        failed = libc.add_actions(self.actions, launch)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def __del__(self) -> None:
        self._libc.destroy(self.actions)


def _vector(strings: list[bytes]) -> Any:
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)


def _nicely(spawn: Callable[[Launch], int], launch: Launch) -> int:
    """Spawn from a thread that has the wanted niceness, and can be thrown away: there is no way back."""
    outcome: list[int | OSError] = []

    def work() -> None:
        step = "nice"
        try:
            os.setpriority(os.PRIO_PROCESS, 0, launch.nice or 0)  # 0: this thread
            step = ""
            outcome.append(spawn(launch))
        except OSError as err:
            outcome.append(OSError(err.errno, err.strerror, step) if step else err)

    thread = threading.Thread(target=work, name="nice")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _current_umask() -> int:
    try:
        with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    # Only by setting it can it be read elsewhere; the moment in between is spent in this thread's start.
    umask = os.umask(0o027)
    os.umask(umask)
    return umask


def _fork_exec(launch: Launch) -> int:
    import subprocess

    output: int = subprocess.DEVNULL
    if launch.output is not None:
        flags = OUTPUT_FLAGS if launch.exclusive else OUTPUT_FLAGS & ~os.O_EXCL
        output = os.open(launch.output, flags, OUTPUT_MODE)
    options: dict[str, Any] = {}
    if launch.account is not None:
        options["user"], options["group"], options["extra_groups"] = launch.account
    try:
        process = subprocess.Popen(
            launch.argv,
            executable=launch.path,
            env=dict(entry.split(b"=", 1) for entry in launch.env),
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL if launch.stdin is None else launch.stdin,
            stdout=output,
            stderr=subprocess.STDOUT if launch.output is None else output,
            umask=-1 if launch.umask is None else launch.umask,
            start_new_session=True,
            **options,
        )
    finally:
        if output >= 0:
            os.close(output)
    # The exit belongs to the watcher: without this, Popen would reap the process behind its back.
    process.returncode = 0
    return process.pid

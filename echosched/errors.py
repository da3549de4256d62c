"""The error tree. One root, an exit code for each branch, messages that name a cure.

A message is one line: ``what: why (what to do)``. Configuration problems are collected and
raised together as one :class:`ConfigError`, so that an operator sees all of them at once.

Exit codes follow LSB for the verbs that control the daemon and ``sysexits.h`` for the others.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

EX_OK = 0
EX_ERROR = 1
EX_USAGE = 2
EX_UNIMPLEMENTED = 3
EX_PRIVILEGE = 4
EX_NOT_INSTALLED = 5
EX_NOT_CONFIGURED = 6
EX_NOT_RUNNING = 7
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_IOERR = 74
EX_NOPERM = 77
EX_CONFIG = 78


class EchoschedError(Exception):
    """The root of all errors that EchoSched raises on purpose.

    *exit_code* is what a command ends with when the error reaches its edge; *code* is the short
    machine-readable word that the control protocol and the web API carry.
    """

    exit_code: int = EX_ERROR
    code: str = "error"

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(EchoschedError):
    """The command line, or a request's arguments, are wrong."""

    exit_code = EX_USAGE
    code = "usage"


class ScheduleError(EchoschedError, ValueError):
    """A schedule expression is malformed or can never fire.

    The message names the field, its value and the allowed range, without the place: whoever
    knows the place (a file and a key) puts it in front.
    """

    exit_code = EX_DATAERR
    code = "bad_schedule"


class ConfigError(EchoschedError):
    """The configuration is wrong; *problems* holds every problem found, one line each."""

    exit_code = EX_NOT_CONFIGURED
    code = "bad_config"

    def __init__(self, problems: list[str] | tuple[str, ...] | str) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class StoreError(EchoschedError):
    """The store cannot be opened, read or written."""

    code = "store"


class StoreUnusable(StoreError):
    """What lies at the store's path must not be touched: not a database, or a newer schema."""

    code = "store_unusable"


class StoreUnavailable(StoreError):
    """A write failed for an outside reason (full disk, I/O error, lost connection): try again later."""

    code = "store_unavailable"


class StoreCorrupt(StoreUnavailable):
    """The store's file is damaged; it can only be set aside, never written again."""

    code = "store_corrupt"


OUTSIDE = (StoreUnavailable, StoreUnusable)
"""Faults of a store that are not the program's: its disk or its server is away, full, or refuses us for now."""


class NotFound(EchoschedError):
    """No such job or run."""

    code = "not_found"


def no_such_job(name: str, known: Iterable[str]) -> NotFound:
    """Return the error that *name* is not among the jobs *known*, with the nearest of them."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    hint = f"did you mean {near[0]}?" if near else "echoschedd jobs lists them"
    return NotFound(f"job {name}: there is no such job ({hint})")


class Conflict(EchoschedError):
    """The request makes no sense in the present state (cancelling a finished run, say)."""

    code = "conflict"


class DaemonError(EchoschedError):
    """The daemon could not be started, stopped or understood."""

    code = "daemon"


class AlreadyRunning(DaemonError):
    """Another daemon holds the pidfile or the database; *pid* is its process id when known."""

    code = "already_running"

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StartFailed(DaemonError):
    """The daemon ended, or said why it could not go on, before it was ready."""

    code = "start_failed"


class NotRunning(DaemonError):
    """There is no daemon to talk to."""

    exit_code = EX_NOT_RUNNING
    code = "not_running"


class Unreachable(DaemonError):
    """A daemon exists but does not answer on its control socket."""

    exit_code = EX_UNAVAILABLE
    code = "unreachable"


class PermissionRefused(EchoschedError):
    """The caller may not do this (file rights, peer credentials, privileges)."""

    exit_code = EX_NOPERM
    code = "permission"


class ExecutionError(EchoschedError):
    """An attempt could not be carried out; the message becomes the run's ``error``."""

    code = "execution"


class OutputUnavailable(ExecutionError):
    """The file of an attempt's output cannot be made: the disk is full, read-only or broken. Nothing has begun."""

    code = "output_unavailable"

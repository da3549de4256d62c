"""What a daemon is told: plain values, built by the caller, carried over ``exec`` as JSON."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself would cost the supervisor 1.7 MB; type checkers know the name
if TYPE_CHECKING:
    from typing import Any


class Paths:
    """The files of one daemon, absolute. ``None``: this daemon has no such file.

    *beat* defaults to the pidfile's name with ``.beat``; *db* also decides the database lock
    (``<db>.lock``), so leave it ``None`` for a store that is not a local file.
    """

    __slots__ = (
        "beat",
        "config",
        "db",
        "home",
        "log",
        "out",
        "pidfile",
        "reports",
        "runs",
        "socket",
        "state",
    )

    def __init__(
        self,
        *,
        pidfile: str,
        state: str,
        log: str | None = None,
        out: str | None = None,
        beat: str | None = None,
        socket: str | None = None,
        db: str | None = None,
        home: str | None = None,
        config: str | None = None,
        runs: str | None = None,
        reports: str | None = None,
    ) -> None:
        self.pidfile = pidfile
        self.state = state
        self.log = log
        self.out = out
        self.beat = beat if beat is not None else pidfile.removesuffix(".pid") + ".beat"
        self.socket = socket
        self.db = db
        self.home = home
        self.config = config
        self.runs = runs
        self.reports = reports

    @property
    def db_lock(self) -> str | None:
        """Return the path of the lock that keeps two daemons off one database."""
        return None if self.db is None else self.db + ".lock"

    def as_dict(self) -> dict[str, str | None]:
        """Return all paths by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Settings:
    """Everything the launcher and the supervisor want to know. Durations are seconds.

    *worker_argv* is what the supervisor starts (and starts again); *worker_env* is added to the
    worker's environment. *out* of the paths receives stdout and stderr of a detached daemon.
    *program* stands in front of messages on stderr. *child_mark* may be a format such as
    ``"NAME={0}."``: a process with an environment entry that begins with it, filled with a child's tag
    up to the first dot, belongs to that child's tree wherever it hides. *watchdog* 0: a silent worker
    is left alone. *start_limit* bounds a worker's warm-up before its first beat. *log_max_size* 0: never
    rotate.
    """

    __slots__ = (
        "backoff_first",
        "backoff_max",
        "child_mark",
        "chroot",
        "core_dumps",
        "grace",
        "group",
        "kill_after",
        "log_keep",
        "log_max_size",
        "max_restarts",
        "mode",
        "paths",
        "program",
        "restart_window",
        "start_limit",
        "start_wait",
        "umask",
        "user",
        "version",
        "watchdog",
        "worker_argv",
        "worker_env",
        "working_directory",
    )

    def __init__(
        self,
        *,
        paths: Paths,
        worker_argv: list[str],
        worker_env: dict[str, str] | None = None,
        version: str = "",
        program: str = "echoschedd",
        mode: str = "background",
        grace: float = 10.0,
        kill_after: float = 5.0,
        watchdog: float = 30.0,
        max_restarts: int = 10,
        restart_window: float = 600.0,
        backoff_first: float = 1.0,
        backoff_max: float = 60.0,
        start_wait: float = 30.0,
        start_limit: float = 120.0,
        user: str | None = None,
        group: str | None = None,
        umask: int = 0o027,
        working_directory: str = "/",
        chroot: str | None = None,
        core_dumps: bool = False,
        log_max_size: int = 0,
        log_keep: int = 5,
        child_mark: str | None = None,
    ) -> None:
        self.paths = paths
        self.worker_argv = list(worker_argv)
        self.worker_env = dict(worker_env or {})
        self.version = version
        self.program = program
        self.mode = mode
        self.grace = grace
        self.kill_after = kill_after
        self.watchdog = watchdog
        self.max_restarts = max_restarts
        self.restart_window = restart_window
        self.backoff_first = backoff_first
        self.backoff_max = backoff_max
        self.start_wait = start_wait
        self.start_limit = start_limit
        self.user = user
        self.group = group
        self.umask = umask
        self.working_directory = working_directory
        self.chroot = chroot
        self.core_dumps = core_dumps
        self.log_max_size = log_max_size
        self.log_keep = log_keep
        self.child_mark = child_mark

    @property
    def foreground(self) -> bool:
        """Tell whether the daemon keeps its terminal (or its parent)."""
        return self.mode == "foreground"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        document = {name: getattr(self, name) for name in self.__slots__}
        document["paths"] = self.paths.as_dict()
        return document

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Settings:
        """Return settings from their JSON form; names this version does not know are left out.

        Over an upgrade the document comes from another version of this program.
        """
        known = {name: value for name, value in document.items() if name in cls.__slots__}
        known["paths"] = Paths(**{k: v for k, v in document["paths"].items() if k in Paths.__slots__})
        return cls(**known)

    def update(self, changes: dict[str, Any]) -> None:
        """Take over what a reload may change while the daemon runs; other names are left alone."""
        for name in RELOADABLE:
            if name in changes:
                setattr(self, name, changes[name])


RELOADABLE = ("grace", "kill_after", "watchdog", "max_restarts", "restart_window", "log_max_size", "log_keep")

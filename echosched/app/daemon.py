"""What the launcher and the supervisor are told: paths, settings, how to start a worker. Light to import."""

from __future__ import annotations

import os
import sys

from echosched.daemon import settings
from echosched.hashing import blake2s
from echosched.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.config.daemon_settings import DaemonConfig
    from echosched.config.paths import Paths
    from echosched.config.settings import Config

MARK_VARIABLE = "ECHOSCHED_MARK"
NEVER = 0.0
# What is settled when the daemon starts: rights, places and descriptors that it then has.
_LASTING = ("user", "group", "umask", "working_directory", "chroot", "core_dumps", "control_group")


def daemon_paths(paths: Paths) -> settings.Paths:
    """Return the daemon room's view of *paths*."""
    places = paths.as_dict()
    names = ("pidfile", "state", "log", "out", "beat", "socket", "db", "config", "runs", "reports")
    return settings.Paths(home=paths.home, **{name: places[name] for name in names})


def instance_of(paths: Paths) -> str:
    """Return the name that marks this daemon's jobs, derived from its database, which no other daemon can hold."""

    return blake2s(os.fsencode(os.path.realpath(paths.db)), digest_size=6).hexdigest()


def mark_format(paths: Paths) -> str:
    """Return the environment entry that all processes of a run carry, with ``{0}`` for the run's number."""
    return f"{MARK_VARIABLE}={instance_of(paths)}:{{0}}."


def supervisor_settings(daemon: DaemonConfig) -> dict[str, Any]:
    """Return what a reload may change in the supervisor; durations in seconds."""
    return {
        "grace": daemon.grace.total_seconds(),
        "watchdog": NEVER if daemon.watchdog is None else daemon.watchdog.total_seconds(),
        "max_restarts": daemon.max_restarts,
        "restart_window": daemon.restart_window.total_seconds(),
        "log_max_size": daemon.log_max_size,
        "log_keep": daemon.log_keep,
    }


def waiting_for_restart(first: Config, now: Config) -> list[str]:
    """Return a warning for what the daemon was started with, by *first*, and *now* is written otherwise."""
    keys = [f"daemon.{key}" for key in _LASTING if getattr(first.daemon, key) != getattr(now.daemon, key)]
    if first.cluster != now.cluster:
        keys.append("cluster")
    return [f"{', '.join(keys)}: in force only after a restart (echoschedd restart)"] if keys else []


def daemon_settings(paths: Paths, daemon: DaemonConfig, *, debug: bool = False) -> settings.Settings:
    """Return what a daemon for *paths* is started with; *debug* reaches the worker's log."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main = os.path.join(package, "cli", "__main__.py")
    argv = [sys.executable, "-P", main, "_worker", *(["--debug"] if debug else []), *paths.options()]
    return settings.Settings(
        paths=daemon_paths(paths),
        worker_argv=argv,
        # A system daemon that gave up root is still the system's: its worker must find the same places.
        worker_env={"ECHOSCHED_SYSTEM": "1"} if paths.mode == "root" else {},
        version=__version__,
        start_wait=daemon.start_wait.total_seconds(),
        user=daemon.user,
        group=daemon.group,
        umask=daemon.umask,
        working_directory=daemon.working_directory or "/",
        chroot=daemon.chroot,
        core_dumps=daemon.core_dumps,
        child_mark=mark_format(paths),
        **supervisor_settings(daemon),
    )


def web_settings(paths: Paths, *, host: str | None = None, port: int | None = None) -> settings.Settings:
    """Return what the web server is started with as a daemon: its own pidfile, state and output."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main = os.path.join(package, "cli", "__main__.py")
    argv = [sys.executable, "-P", main, "_web", *paths.options()]
    argv += [
        word
        for name, value in (("--host", host), ("--port", port))
        if value is not None
        for word in (name, str(value))
    ]

    def beside(path: str, suffix: str) -> str:
        return os.path.join(os.path.dirname(path), f"echosched-web{suffix}")

    return settings.Settings(
        paths=settings.Paths(
            home=paths.home,
            pidfile=beside(paths.pidfile, ".pid"),
            state=beside(paths.state, ".state.json"),
            out=beside(paths.out, ".out"),
            log=beside(paths.log, ".log"),
            config=paths.config,
        ),
        worker_argv=argv,
        version=__version__,
        program="echoschedd web",
        log_max_size=10_000_000,
    )

"""The ``[daemon]`` table: what the launcher needs before it forks.

The launcher reads this table alone, from the main file alone, and leaves all else to the worker; so this module
stays light (no dataclasses, no schedules, and no TOML parser where the file has no such table). When anything is
wrong here the whole configuration is read, so that the operator still sees all problems at once.
"""

from __future__ import annotations

from datetime import timedelta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from echosched.config.paths import Paths
    from echosched.config.values import Problems, Reader


class DaemonConfig:
    """The settings of the daemon itself. Immutable; ``None`` means: not changed, or no limit."""

    __slots__ = (
        "chroot",
        "control_group",
        "core_dumps",
        "crontabs",
        "grace",
        "group",
        "log_keep",
        "log_max_size",
        "max_concurrent",
        "max_restarts",
        "restart_window",
        "start_wait",
        "tick",
        "umask",
        "user",
        "watchdog",
        "working_directory",
    )

    tick: timedelta | None  # between two heartbeat lines; None: none
    grace: timedelta  # a stop waits this long for running jobs, then TERM
    watchdog: timedelta | None  # age of the beat at which the worker is replaced; None: never
    max_concurrent: int
    max_restarts: int
    restart_window: timedelta
    user: str | None
    group: str | None
    umask: int
    working_directory: str | None
    chroot: str | None
    core_dumps: bool
    control_group: str | None
    crontabs: tuple[tuple[str, bool | None], ...]  # (path or glob, system format; None: decided by the place)
    log_max_size: int  # bytes; 0: never rotated
    log_keep: int
    start_wait: timedelta

    def __init__(self, **values: Any) -> None:
        unknown = set(values) - set(self.__slots__)
        if unknown:
            raise TypeError(f"DaemonConfig: {', '.join(sorted(unknown))}: unknown")
        for name in self.__slots__:
            object.__setattr__(self, name, values[name] if name in values else _DEFAULTS[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"DaemonConfig.{name} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"DaemonConfig.{name} is read-only")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DaemonConfig):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        return "DaemonConfig(" + ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__) + ")"


_DEFAULTS: dict[str, object] = {
    "tick": timedelta(seconds=60),
    "grace": timedelta(seconds=10),
    "watchdog": timedelta(seconds=30),
    "max_concurrent": 64,
    "max_restarts": 10,
    "restart_window": timedelta(minutes=10),
    "user": None,
    "group": None,
    "umask": 0o027,
    "working_directory": None,
    "chroot": None,
    "core_dumps": False,
    "control_group": None,
    "crontabs": (),
    "log_max_size": 10_000_000,
    "log_keep": 5,
    "start_wait": timedelta(seconds=30),
}


def read_daemon_table(table: Mapping[str, Any], place: str, problems: Problems) -> DaemonConfig:
    """Validate a ``[daemon]`` table; what is wrong goes to *problems* and the default stands in for it."""
    return DaemonConfig(**problems.read(place, "daemon", table, _readers()))


def read_daemon_settings(paths: Paths, *, environ: Mapping[str, str] | None = None) -> DaemonConfig:
    """Return the ``[daemon]`` settings of the main config file, and read nothing else when they are fine.

    A missing or unreadable file, broken TOML or a wrong setting raises ``ConfigError`` with every problem of the
    whole configuration.
    """
    try:
        with open(paths.config, "rb") as file:
            data = file.read()
        if b"daemon" not in data:
            return DaemonConfig()
        import tomllib

        from echosched.config.values import Problems

        table = tomllib.loads(data.decode("utf-8-sig")).get("daemon", {})
        problems = Problems()
        if isinstance(table, dict):
            settings = read_daemon_table(table, paths.config, problems)
            if not problems.lines:
                return settings
    except (OSError, ValueError, RecursionError):
        pass  # the full reader says what is wrong, and where
    from echosched.config.load import load

    return load(paths.config, paths=paths, environ=environ).daemon


def _readers() -> dict[str, Reader]:
    from echosched.config import values as v

    def tick(value: Any) -> timedelta | None:
        found = v.duration(value)
        if found and found < timedelta(seconds=1):
            raise ValueError('must be 1s or more, or "0" for none')
        return found or None

    def watchdog(value: Any) -> timedelta | None:
        found = v.duration(value)
        if found and found < timedelta(seconds=2):
            raise ValueError('must be 2s or more, or "0" for none')
        return found or None

    return {
        "tick": tick,
        "grace": v.duration,
        "watchdog": watchdog,
        "max_concurrent": v.integer(1, 100_000),
        "max_restarts": v.integer(0, 1_000_000),
        "restart_window": v.positive_duration,
        "user": v.line,
        "group": v.line,
        "umask": v.umask,
        "working_directory": v.absolute,
        "chroot": v.absolute,
        "core_dumps": v.boolean,
        "control_group": v.line,
        "crontabs": _crontabs,
        "log_max_size": v.size,
        "log_keep": v.integer(0, 1000),
        "start_wait": v.positive_duration,
    }


def _crontabs(value: Any) -> tuple[tuple[str, bool | None], ...]:
    from echosched.config import values as v

    found: list[tuple[str, bool | None]] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            found.append((v.line(item), None))
        elif isinstance(item, dict) and set(item) <= {"path", "system"} and "path" in item:
            found.append((v.line(item["path"]), v.boolean(item["system"]) if "system" in item else None))
        else:
            raise ValueError(
                'must be a list of paths, or of tables such as { path = "/etc/crontab", system = true }'
            )
    return tuple(found)

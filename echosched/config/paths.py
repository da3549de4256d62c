"""Where everything lies: one home directory, the FHS places of root, or a user's XDG places.

``status`` imports this before anything else, so it imports nothing but ``os``: no dataclasses, no typing, no TOML.
Flag beats environment beats default.
"""

from __future__ import annotations

import os

from echosched.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_PATH_LIMIT = 107
"""Bytes that fit in ``sockaddr_un.sun_path`` beside its terminating NUL (Linux, unix(7))."""

_NAMES = (
    "config",
    "drop_ins",
    "pidfile",
    "socket",
    "state",
    "beat",
    "db",
    "db_lock",
    "log",
    "out",
    "runs",
    "reports",
    "web_key",
)


class Paths:
    """All paths of one instance, absolute. Immutable.

    *mode* is ``home`` (all in one directory, *home*), ``root`` (the FHS places) or ``user`` (XDG).
    """

    __slots__ = ("home", "mode", *_NAMES)

    mode: str
    home: str | None
    config: str
    drop_ins: str  # a directory; its *.toml are read after the config
    pidfile: str
    socket: str
    state: str
    beat: str  # the memory-mapped beat of the worker's loop
    db: str
    db_lock: str
    log: str
    out: str
    runs: str  # a directory
    reports: str  # a directory
    web_key: str

    def __init__(self, mode: str, home: str | None, **places: str) -> None:
        if missing := set(_NAMES) ^ set(places):
            raise TypeError(f"Paths: {', '.join(sorted(missing))}: missing or unknown")
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "home", home)
        for name, place in places.items():
            object.__setattr__(self, name, place)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Paths.{name} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Paths.{name} is read-only")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Paths):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        return f"Paths(mode={self.mode!r}, config={self.config!r}, pidfile={self.pidfile!r}, db={self.db!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.mode, self.home, self.as_dict()))

    def as_dict(self) -> dict[str, str]:
        """Return name → path, the ``paths`` of ``status --json``."""
        return {name: getattr(self, name) for name in _NAMES}

    def directories(self) -> list[str]:
        """Return the directories that must exist before a start, parents first (to be made 0750)."""
        files = (
            self.pidfile,
            self.socket,
            self.state,
            self.beat,
            self.db,
            self.db_lock,
            self.log,
            self.out,
            self.web_key,
        )
        wanted = {os.path.dirname(name) for name in files} | {self.runs, self.reports}
        return sorted(wanted)

    def options(self) -> list[str]:
        """Return the command-line options that name the same instance again (for a child's command line)."""
        given = ("config", "pidfile", "socket", "db", "log")
        start = ["--home", self.home] if self.home is not None else []
        return start + [word for name in given for word in ("--" + name, getattr(self, name))]


def _rebuild(mode: str, home: str | None, places: dict[str, str]) -> Paths:
    return Paths(mode, home, **places)


def resolve_paths(
    home: str | None = None,
    config: str | None = None,
    pidfile: str | None = None,
    socket: str | None = None,
    db: str | None = None,
    log: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    uid: int | None = None,
    talks: bool = True,
) -> Paths:
    """Return the paths of the instance that flags (the arguments) and the environment name.

    The environment's names are ``ECHOSCHED_HOME``, ``ECHOSCHED_CONFIG``, ``ECHOSCHED_PIDFILE``, ``ECHOSCHED_SOCKET``,
    ``ECHOSCHED_DB`` and ``ECHOSCHED_LOG``; an empty one counts as unset. Relative paths are taken from the present
    directory, ``~`` is the home directory. With ``ECHOSCHED_SYSTEM=1`` the defaults are the system's places although
    *uid* is not root: the system's own daemon that runs, or goes on, as another user. Touches no file. Raises
    ``ConfigError`` for a path that cannot work; that of the socket matters to whoever *talks* or listens.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    given = {"home": home, "config": config, "pidfile": pidfile, "socket": socket, "db": db, "log": log}
    for name, flag in given.items():
        if flag == "":
            raise ConfigError(f"--{name}: an empty path (leave the option out for the default)")
        value = flag or environ.get("ECHOSCHED_" + name.upper()) or None
        if value is not None and "\0" in value:
            raise ConfigError(f"{name}: {value!r}: a path must not hold a NUL character")
        try:
            given[name] = None if value is None else os.path.abspath(os.path.expanduser(value))
        except FileNotFoundError:
            raise ConfigError(
                f"{name}: {value}: relative, and the present directory is gone (give an absolute path)"
            ) from None
    system = uid == 0 or environ.get("ECHOSCHED_SYSTEM") == "1"
    places = _defaults(given["home"], environ, uid, system=system)
    for name in ("config", "pidfile", "socket", "db", "log"):
        chosen = given[name]
        if chosen is not None:
            places[name] = chosen
    # A drop-in belongs to its config: a test run with --config elsewhere must not pick up the system's jobs.
    places["drop_ins"] = os.path.join(os.path.dirname(places["config"]), "jobs.d")
    places["db_lock"] = places["db"] + ".lock"
    length = len(os.fsencode(places["socket"]))
    if talks and length > SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"socket: {places['socket']}: {length} bytes, but a Unix socket's path has room for "
            f"{SOCKET_PATH_LIMIT} (use a shorter --home, or --socket)"
        )
    mode = "home" if given["home"] is not None else "root" if system else "user"
    return Paths(mode, given["home"], **places)


def _defaults(home: str | None, environ: Mapping[str, str], uid: int, *, system: bool) -> dict[str, str]:
    if home is not None:
        etc = run = lib = log = home
    elif system:
        etc, run, lib, log = "/etc/echosched", "/run/echosched", "/var/lib/echosched", "/var/log/echosched"
    else:
        etc = os.path.join(_xdg(environ, "XDG_CONFIG_HOME", ".config", uid), "echosched")
        lib = log = os.path.join(_xdg(environ, "XDG_STATE_HOME", ".local/state", uid), "echosched")
        runtime = _runtime(environ, uid)
        run = lib if runtime is None else os.path.join(runtime, "echosched")
    join = os.path.join
    return {
        "config": join(etc, "echosched.toml"),
        "pidfile": join(run, "echosched.pid"),
        "socket": join(run, "echosched.sock"),
        "state": join(lib, "echosched.state.json"),
        # /run/user/UID vanishes with the user's last session, the daemon's health must stay readable.
        "beat": join(run if system else lib, "echosched.beat"),
        "db": join(lib, "echosched.db"),
        "log": join(log, "echosched.log"),
        "out": join(log, "echosched.out"),
        "runs": join(lib, "runs"),
        "reports": join(lib, "reports"),
        "web_key": join(lib, "web.key"),
    }


def _xdg(environ: Mapping[str, str], name: str, default: str, uid: int) -> str:
    """Return an XDG base directory; relative values are ignored, as the specification asks."""
    value = environ.get(name, "")
    if os.path.isabs(value):
        return value
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        import pwd

        try:
            home = pwd.getpwuid(uid).pw_dir
        except KeyError:
            raise ConfigError(
                f"HOME: {home!r}: no home directory is known for user id {uid} (set HOME, or use --home DIR)"
            ) from None
    return os.path.join(home, default)


def _runtime(environ: Mapping[str, str], uid: int) -> str | None:
    value = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(value):
        return value
    # From cron or sudo the variable is unset, but the daemon started at a terminal must still be found.
    usual = f"/run/user/{uid}"
    try:
        return usual if os.stat(usual).st_uid == uid else None
    except OSError:
        return None

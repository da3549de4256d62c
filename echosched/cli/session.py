"""What most verbs begin with: the paths that the options name, and a line to the daemon."""

from __future__ import annotations

from echosched.config.paths import resolve_paths
from echosched.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.config.paths import Paths
    from echosched.control.client import ControlClient


def paths_of(arguments: dict[str, Any], *, talks: bool = True) -> Paths:
    """Return the paths of the instance that the options name; *talks*: its socket's must be one that can be."""
    names = ("home", "config", "pidfile", "socket", "db", "log")
    return resolve_paths(talks=talks, **{name: arguments.get("--" + name) for name in names})


def client_of(arguments: dict[str, Any], *, timeout: float | None = 30.0) -> ControlClient:
    """Return a client for the daemon's control socket; *timeout* in seconds."""
    from echosched.control.client import ControlClient

    return ControlClient(paths_of(arguments).socket, timeout=timeout)


def seconds_of(option: str, text: str) -> float:
    """Return the duration that *option* names, in seconds."""
    from echosched.errors import EchoschedError
    from echosched.schedule.durations import parse_duration

    try:
        return parse_duration(text).total_seconds()
    except (EchoschedError, ValueError) as error:
        raise UsageError(f"{option}: {error}") from None


def count_of(option: str, text: str, *, least: int = 0) -> int:
    """Return the whole number that *option* names; it must be *least* or more."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{option}: {text!r} is not a whole number")
    # More digits than any count has: int() itself would refuse thousands of them.
    if len(text) > 18:
        raise UsageError(f"{option}: {text[:20]}… is too large")
    if int(text) < least:
        raise UsageError(f"{option}: {int(text)} shows nothing (at least {least})")
    return int(text)


def run_number(text: str) -> int:
    """Return the run number that *text* names."""
    if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit():
        raise UsageError(f"run {text!r}: a run's number is a whole number (echoschedd history lists them)")
    return int(text)

"""EchoSched: a scheduler daemon that stays up, proves it, and accounts for every slot exactly once.

The public names are imported when first used, so that ``import echosched`` costs nothing.
"""

from __future__ import annotations

from echosched.version import __version__

TYPE_CHECKING = False  # importing typing would cost `status` and the supervisor more than their own code
if TYPE_CHECKING:
    from typing import Any

    from echosched.app.library import Scheduler
    from echosched.daemon.context import DaemonContext
    from echosched.daemon.pidfile import PIDFile
    from echosched.errors import EchoschedError
    from echosched.executor.function import Context
    from echosched.model import Job, Run, State
    from echosched.schedule import parse_schedule

_HOMES = {
    "Context": "echosched.executor.function",
    "DaemonContext": "echosched.daemon.context",
    "EchoschedError": "echosched.errors",
    "Job": "echosched.model",
    "PIDFile": "echosched.daemon.pidfile",
    "Run": "echosched.model",
    "Scheduler": "echosched.app.library",
    "State": "echosched.model",
    "parse_schedule": "echosched.schedule",
}

__all__ = [
    "Context",
    "DaemonContext",
    "EchoschedError",
    "Job",
    "PIDFile",
    "Run",
    "Scheduler",
    "State",
    "__version__",
    "parse_schedule",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

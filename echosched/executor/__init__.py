"""One attempt to one Result: commands, HTTP calls, Python functions.

The way of a command: :mod:`~echosched.executor.commandline` and :mod:`~echosched.executor.environment`
turn an attempt into a :class:`~echosched.executor.spawn.Launch`; a spawner thread
(:mod:`~echosched.executor.spawners`) starts it; :mod:`~echosched.executor.watch` sees its exit;
:mod:`~echosched.executor.tree` ends what has to be ended, with all its descendants;
:mod:`~echosched.executor.output` holds what it prints to its limit.

The public names are imported when first used: a ``python`` job's process runs a file of this room and
must not pay for the rest of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echosched.executor.command import CommandExecutor
    from echosched.executor.dispatch import ActionExecutor
    from echosched.executor.function import CallableExecutor, Context
    from echosched.executor.http import HttpExecutor
    from echosched.executor.options import ExecutorOptions
    from echosched.executor.output import never_started, unbar

_HOMES = {
    "ActionExecutor": "echosched.executor.dispatch",
    "CallableExecutor": "echosched.executor.function",
    "CommandExecutor": "echosched.executor.command",
    "Context": "echosched.executor.function",
    "ExecutorOptions": "echosched.executor.options",
    "HttpExecutor": "echosched.executor.http",
    "never_started": "echosched.executor.output",
    "unbar": "echosched.executor.output",
}

__all__ = [
    "ActionExecutor",
    "CallableExecutor",
    "CommandExecutor",
    "Context",
    "ExecutorOptions",
    "HttpExecutor",
    "never_started",
    "unbar",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

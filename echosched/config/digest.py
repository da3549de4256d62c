"""Short digests that tell whether a job changed. Stable over restarts, hosts and new fields with default values.

They are taken over canonical JSON of what differs from the defaults, so that a later version of the program, with
a new setting that nobody uses yet, does not make every job look changed.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from json import dumps
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from echosched.hashing import blake2b
from echosched.model import Action, After, CallableAction, CommandAction, Policy, Process

_BYTES = 8
_PLAIN_CODES = (0,)


def definition_of(action: Action, policy: Policy, process: Process) -> str:
    """Return the digest of everything that decides what runs."""
    return combine(action_text(action), bundle_text(policy, process))


def timing_of(
    schedule: tuple[str, ...],
    timezone: str,
    *,
    dst: str = "once",
    excluded: tuple[str, ...] = (),
    after: After | None = None,
) -> str:
    """Return the digest of everything that decides when."""
    if len(schedule) == 1 and not excluded and after is None:
        # The short way for the lines of a large crontab; the same text as the long way below.
        return combine(f"[[{_quoted(schedule[0])}], {_quoted(timezone)}, {_quoted(dst)}]", "")
    parts: list[Any] = [list(schedule), timezone if schedule else "", dst]
    if excluded:
        parts.append({"except": list(excluded)})
    if after is not None:
        parts.append({"after": [after.job, str(after.when)]})
    return combine(dumps(parts), "")


def combine(first: str, second: str) -> str:
    """Return the digest of two texts."""
    return blake2b(f"{first}\n{second}".encode("utf-8", "surrogateescape"), digest_size=_BYTES).hexdigest()


def bundle_text(policy: Policy, process: Process) -> str:
    """Return the canonical text of a policy and a process; worth keeping where many jobs share them."""
    return dumps([_differences(policy), _differences(process)], sort_keys=True)


def action_text(action: Action) -> str:
    """Return the canonical text of an action."""
    if type(action) is CommandAction and type(action.command) is str and not action.args:
        # The short way for a hundred thousand crontab lines; the same text as the long way below.
        if action.shell is None and action.stdin is None and action.success_codes == _PLAIN_CODES:
            return '["CommandAction", {"command": ' + _quoted(action.command) + "}]"
    if isinstance(action, CallableAction):
        function = action.function
        return dumps(
            ["CallableAction", getattr(function, "__module__", ""), getattr(function, "__qualname__", "")]
        )
    return dumps([type(action).__name__, _differences(action)], sort_keys=True, default=str)


def _differences(value: Any) -> dict[str, Any]:
    found = {}
    for item in fields(value):
        content = getattr(value, item.name)
        if content != item.default:
            found[item.name] = content.total_seconds() if isinstance(content, timedelta) else content
    return found

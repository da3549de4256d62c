"""The keys of a job and how each value is read. ``[defaults]`` takes the same ones."""

from __future__ import annotations

import re
from typing import Any

from echosched.config import values as v
from echosched.config.actions import ACTION_OPTIONS, BUILTINS_IN_A_PROCESS, http_url
from echosched.errors import ScheduleError
from echosched.model import After, AfterWhen, Catchup, Dst, OnAbandoned, Overlap
from echosched.schedule import parse_after

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?|[0-9]+", re.ASCII)
_LABEL = re.compile(r"\S{1,100}")
_LIMITS = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "rttime",
    "sigpending",
    "stack",
)
UNLIMITED = -1
"""``resource.RLIM_INFINITY`` on Linux, without importing ``resource``."""


def _place(value: Any) -> str:
    if not v.line(value).startswith(("/", "~", "${")):
        raise ValueError("must be an absolute path (or begin with ~)")
    return str(value)


def _account(value: Any) -> str:
    if _USER.fullmatch(v.line(value)) is None:
        raise ValueError("is no name for an account")
    return str(value)


def _limits(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise ValueError("must be a table such as { nofile = 1024 }")
    found = []
    for name, content in value.items():
        if name not in _LIMITS:
            raise ValueError(f"unknown limit {v.shown(name)}{v.nearest(name, _LIMITS)}")
        try:
            found.append((name, UNLIMITED if content == "unlimited" else v.size(content)))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return tuple(sorted(found))


def _group(value: Any) -> tuple[str, int]:
    if isinstance(value, dict):
        if set(value) - {"name", "limit"} or "name" not in value:
            raise ValueError('must be a name, or a table such as { name = "db", limit = 2 }')
        try:
            return v.line(value["name"]), v.integer(1)(value.get("limit", 1))
        except ValueError as error:
            raise ValueError(f"name or limit {error}") from None
    return v.line(value), 1


def _shell(value: Any) -> str:
    if not v.line(value).startswith("/"):
        raise ValueError("must be the absolute path of a shell")
    return str(value)


def _notify(value: Any) -> tuple[str, ...]:
    if value is False:
        return ()
    return tuple(dict.fromkeys(v.strings(value)))


def _labels(value: Any) -> tuple[str, ...]:
    found = v.strings(value)
    for label in found:
        if _LABEL.fullmatch(label) is None:
            raise ValueError(f"{v.shown(label)} is no label (no white space, at most 100 characters)")
    return tuple(sorted(set(found)))


def _args(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    if any(isinstance(item, str) and "\0" in item for item in value):
        raise ValueError("must not hold a NUL character")
    return tuple(value)


def _schedule(value: Any) -> tuple[str, ...]:
    found = v.strings(value)
    if not found:
        raise ValueError("must not be empty")
    return found


def _after(value: Any) -> After | None:
    if isinstance(value, dict):
        if set(value) - {"job", "when"} or "job" not in value:
            raise ValueError('must be a job, or a table such as { job = "brief", when = "success" }')
        when = v.choice(("success", "failure", "any"))(value.get("when", "success"))
        return After(v.line(value["job"]), AfterWhen(when))
    text = v.line(value).strip()
    try:
        return parse_after(text if text.lower().startswith("after ") else f"after {text}")
    except ScheduleError as error:
        raise ValueError(str(error).partition('": ')[2]) from None


def enum_of(kind: type[Any]) -> v.Reader:
    """Return a reader of the values of a string enum."""
    read = v.choice(member.value for member in kind)
    return lambda value: kind(read(value))


POLICY_KEYS: dict[str, v.Reader] = {
    "timeout": v.duration_or_none,
    "kill_after": v.duration,
    "retries": v.integer(0, 1_000_000),
    "retry_delay": v.duration,
    "retry_backoff": v.number(1, 1000),
    "retry_max_delay": v.duration,
    "overlap": enum_of(Overlap),
    "catchup": enum_of(Catchup),
    "catchup_window": v.duration,
    "on_abandoned": enum_of(OnAbandoned),
    "jitter": v.duration,
    "concurrency_group": _group,
    "priority": v.integer(-1_000_000, 1_000_000),
    "output": v.boolean,
    "output_limit": v.size,
    "notify": _notify,
    "healthcheck": http_url,
    "heal": v.boolean,
    "labels": _labels,
}

PROCESS_KEYS: dict[str, v.Reader] = {
    "cwd": _place,
    "env": v.environment,
    "env_file": _place,
    "user": _account,
    "group": _account,
    "umask": v.umask,
    "nice": v.integer(-20, 19),
    "limits": _limits,
}

OTHER_KEYS: dict[str, v.Reader] = {
    "description": v.any_text,
    "enabled": v.boolean,
    "schedule": _schedule,
    "timezone": v.line,
    "dst": enum_of(Dst),
    "except": v.strings,
    "after": _after,
    "args": _args,
    "stdin": v.any_text,
    "shell": _shell,
    "success_codes": v.integers(0, 255),
}

JOB_KEYS: dict[str, v.Reader] = {**OTHER_KEYS, **POLICY_KEYS, **PROCESS_KEYS}

KINDS_OF: dict[str, tuple[str, ...]] = {
    **ACTION_OPTIONS,
    **dict.fromkeys(PROCESS_KEYS, ("command", "python")),
}
"""The kinds of action that a key is for; a key that is not here is for all of them."""


def idle_keys(kind: str, value: Any) -> tuple[str, ...]:
    """Return the keys that would change nothing about a job with *kind* = *value*."""
    idle = [key for key, kinds in KINDS_OF.items() if kind not in kinds]
    if kind == "builtin" and value in BUILTINS_IN_A_PROCESS:
        idle.remove(
            "nice"
        )  # how eagerly they work is the operator's; with what rights and where, the daemon's
    return tuple(idle)

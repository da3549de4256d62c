"""The tables that are neither jobs nor the daemon: ``[retention] [web] [notify.NAME]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from echosched.config import values as v
from echosched.config.actions import http_headers, http_url
from echosched.config.settings import (
    NOTIFY_KINDS,
    NOTIFY_OCCASIONS,
    NotifyConfig,
    RetentionConfig,
    WebConfig,
)

_ADDRESS = re.compile(r"[^\s@,;<>]+(@[^\s@,;<>]+)?|\$\{.+")

RETENTION_KEYS: dict[str, v.Reader] = {
    "runs": v.positive_duration,
    "keep": v.integer(1),
    "output": v.positive_duration,
    "reports": v.positive_duration,
}


WEB_KEYS: dict[str, v.Reader] = {
    "host": v.line,
    "port": v.integer(0, 65535),
    "key_file": v.absolute,
    "allowed_hosts": v.strings,
}


def addresses(value: Any) -> tuple[str, ...]:
    """Read one or more mail addresses; a name without a host is a local one."""
    found = v.strings(value)
    for address in found:
        if _ADDRESS.fullmatch(address) is None:
            raise ValueError(f"{v.shown(address)} is no mail address")
    if not found:
        raise ValueError("must not be empty")
    return found


def _urls(value: Any) -> tuple[str, ...]:
    found = v.strings(value)
    if not found:
        raise ValueError("must not be empty")
    return found


def _occasions(value: Any) -> tuple[str, ...]:
    read = v.choice(NOTIFY_OCCASIONS)
    items = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(read(item) for item in items))


_NOTIFY_COMMON: dict[str, v.Reader] = {
    "kind": v.choice(NOTIFY_KINDS),
    "on": _occasions,
    "default": v.boolean,
}
_NOTIFY_KEYS: dict[str, dict[str, v.Reader]] = {
    "mail": {
        "to": addresses,
        "from": v.line,
        "subject": v.line,
        "sendmail": v.line,
        "smtp": v.line,  # host or host:port
        "smtp_tls": v.choice(("starttls", "tls", "none")),
        "smtp_user": v.line,
        "smtp_password": v.line,
        "timeout": v.positive_duration,
    },
    "webhook": {
        "url": http_url,
        "method": v.line,
        "headers": http_headers,
        "template": v.text,
        "timeout": v.positive_duration,
    },
    "healthchecks": {"url": http_url, "timeout": v.positive_duration},
    "apprise": {"url": _urls, "timeout": v.positive_duration},
}
_NOTIFY_NEEDS = {"mail": "to", "webhook": "url", "apprise": "url"}


def read_retention(table: Any, place: str, problems: v.Problems) -> RetentionConfig:
    """Return ``[retention]``."""
    return RetentionConfig(**_read(table, "retention", RETENTION_KEYS, place, problems))


def read_web(table: Any, place: str, problems: v.Problems) -> WebConfig:
    """Return ``[web]``."""
    return WebConfig(**_read(table, "web", WEB_KEYS, place, problems))


def read_notify(name: str, table: Any, place: str, problems: v.Problems) -> NotifyConfig | None:
    """Return one ``[notify.NAME]``; ``None`` when *problems* got the reason."""
    key = f"notify.{name}"
    if re.fullmatch(r"\w[\w.@+-]{0,99}", name) is None:
        problems.add(
            place, f"notify.{v.shown(name)}", "a name has letters, digits and _ . @ + -, at most 100"
        )
        return None
    if not isinstance(table, Mapping):
        problems.add_value(place, key, table, "must be a table")
        return None
    kind = table.get("kind")
    if kind not in NOTIFY_KINDS:
        reason = f"must be one of {', '.join(NOTIFY_KINDS)}"
        if "kind" not in table:
            problems.add(place, f"{key}.kind", f"missing ({reason})")
        else:
            problems.add_value(place, f"{key}.kind", kind, reason + v.nearest(str(kind), NOTIFY_KINDS))
        return None
    before = len(problems.lines)
    values = _read(table, key, {**_NOTIFY_COMMON, **_NOTIFY_KEYS[kind]}, place, problems)
    needed = _NOTIFY_NEEDS.get(kind)
    if needed is not None and needed not in table:
        problems.add(place, f"{key}.{needed}", "missing")
    if len(problems.lines) > before:
        return None
    common = {k: values.pop(k) for k in _NOTIFY_COMMON if k in values}
    return NotifyConfig(name=name, options=MappingProxyType(values), **common)


def _read(
    table: Any, key: str, readers: Mapping[str, v.Reader], place: str, problems: v.Problems
) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        problems.add_value(place, key, table, "must be a table")
        return {}
    return problems.read(place, key, table, readers)

"""The ``[cluster]`` table: the database that many hosts share, and what this host is called there.

The address may hold a password. It is kept as it was written (``${env:…}`` and ``${file:…}`` are resolved where the
database is opened), stays out of every ``repr``, and no message repeats any part of it but :func:`address`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from echosched.config import values as v
from echosched.config.job_keys import JOB_KEYS
from echosched.config.settings import Cluster
from echosched.schedule.durations import format_duration

EXAMPLE = '"postgresql://user@host/database"'
_NAME = re.compile(r"\w[\w.@+-]{0,99}")  # no colon: that is how the owner of one machine's runs is told
_REFERENCE = re.compile(r"\$\{[^{}\n]*\}")
_PARTS = ("psycopg", "procrastinate")
_UNNAMED = frozenset(("", "localhost", "localhost.localdomain"))
_SHORTEST_BEAT = timedelta(milliseconds=200)


def _instance(value: Any) -> str:
    if _NAME.fullmatch(v.line(value)) is None:
        raise ValueError("a name has letters, digits and _ . @ + -, at most 100")
    return str(value)


def _heartbeat(value: Any) -> timedelta:
    found = v.duration(value)
    if found < _SHORTEST_BEAT:
        raise ValueError("must be 200ms or more")
    return found


def _dsn(value: Any) -> str:
    text = v.line(value)
    wrong = dsn_problem(text)
    if wrong is not None:
        raise ValueError(wrong)
    return str(text)


CLUSTER_KEYS: dict[str, v.Reader] = {
    "dsn": _dsn,
    "instance": _instance,
    "heartbeat": _heartbeat,
    "lease": v.positive_duration,
    "labels": JOB_KEYS["labels"],
}


def read_cluster(table: Any, place: str, problems: v.Problems) -> Cluster | None:
    """Return ``[cluster]``; ``None`` when *problems* got the reason.

    Looks up the host's name where the table gives none, and whether the extra ``cluster`` is installed.
    """
    if not isinstance(table, Mapping):
        problems.add_value(place, "cluster", table, "must be a table")
        return None
    before = len(problems.lines)
    found = problems.read(place, "cluster", table, CLUSTER_KEYS)
    if "dsn" not in table:
        problems.add(place, "cluster.dsn", f"missing (the database that all hosts share, such as {EXAMPLE})")
    if "instance" not in table:
        host = _host_name()
        if host is None:
            reason = "missing, and this host has no name of its own (each instance needs another name)"
            problems.add(place, "cluster.instance", reason)
        else:
            found["instance"] = host
    missing = [name for name in _PARTS if find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed (pip install 'echosched[cluster]')"
        problems.add(place, "cluster", reason)
    if len(problems.lines) > before:
        return None
    cluster = Cluster(**found)
    if cluster.lease <= 2 * cluster.heartbeat:
        reason = "must be more than twice the heartbeat, or one late beat would take a live host's runs away"
        problems.add_value(
            place,
            "cluster.lease",
            format_duration(cluster.lease),
            f"{reason} ({format_duration(cluster.heartbeat)})",
        )
        return None
    return cluster


def dsn_problem(text: str) -> str | None:
    """Return why *text* cannot be the address of a PostgreSQL database, or ``None``; never a part of it."""
    # What a reference stands for is known only at run time: any word in its place shows whether the rest is right.
    plain = _REFERENCE.sub("x", text)
    if _REFERENCE.fullmatch(text) is not None:
        return None
    if "://" not in plain and "=" not in plain:
        return f"must be a PostgreSQL address such as {EXAMPLE}"
    if "://" in plain and not plain.startswith(("postgresql://", "postgres://")):
        if "=" not in plain.partition("://")[0]:
            return f"must begin with postgresql:// ({EXAMPLE})"
    if find_spec("psycopg") is None:
        return None  # told by itself, once
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(plain)
    except psycopg.Error as error:
        # libpq's reason quotes what it did not understand, which may be the password; its kind it may say.
        named = re.search(r'invalid (?:URI query parameter|connection option):? "(\w{1,40})"', str(error))
        what = f"has no option called {named[1]}" if named else f"cannot be read (as in {EXAMPLE}"
        return what if named else what + "; special characters in a password as %XX)"
    for port in str(parts.get("port") or "").split(","):
        if port not in ("", "x") and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return "its port must be 1–65535"
    return None


def address(dsn: str) -> str:
    """Return *dsn* as people may see it: hosts, port and database, never user, password or options."""
    text = _REFERENCE.sub("…", dsn)
    if "://" in text:
        rest = text.partition("://")[2]
        # As libpq reads it: what stands before the first @, if no slash comes first, is user and password.
        userinfo = re.match(r"[^@/]*@", rest)
        rest = rest[userinfo.end() :] if userinfo else rest
        hosts, _, name = rest.partition("?")[0].partition("/")
        if not hosts and (named := re.search(r"[?&]host=([^&@]*)", rest)):
            hosts = named[1].replace("%2F", "/").replace("%2f", "/")
    else:
        said: dict[str, str] = dict(
            re.findall(r"(?:^|\s)(host|hostaddr|port|dbname)\s*=\s*('[^']*'|\S+)", text)
        )
        hosts = said.get("host", said.get("hostaddr", "")) + (f":{said['port']}" if "port" in said else "")
        name = said.get("dbname", "")
    if "@" in hosts + name or (not hosts and "…" in text):
        return "…"  # an unescaped password may reach into what looks like a host
    return v.printable((hosts or "local socket") + (f"/{name}" if name else ""))


def _host_name() -> str | None:
    name = socket.gethostname()
    return name if name not in _UNNAMED and _NAME.fullmatch(name) is not None else None

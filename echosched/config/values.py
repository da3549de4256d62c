"""Readers of single values: each takes what TOML gave and returns what the program uses.

A reader raises ``ValueError`` with the reason alone; :class:`Problems` puts file, key and value in front. Values of
keys that may hold a secret are never repeated in a message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from echosched.errors import ScheduleError
from echosched.schedule.durations import parse_duration

Reader = Callable[[Any], Any]

_SECRET_KEYS = frozenset(
    (
        "env headers url urls body json stdin dsn password token key healthcheck command args template"
        " smtp_password smtp_user"
    ).split()
)
_SHOWN_CHARACTERS = 80
_LONGEST_LINE = 600
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_SIZE_STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LARGEST = 2**63 - 1
_LONGEST = timedelta(days=36_525)  # a century: whatever adds it to an instant must not overflow


class Problems:
    """Collects what is wrong, one line each; nothing is raised before all of it is known."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, key: str, reason: str) -> None:
        """Note ``place: key: reason``, on one line that a terminal can bear."""
        line = f"{place}: {key}: {reason}" if key else f"{place}: {reason}"
        self.lines.append(printable(line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…"))

    def add_value(self, place: str, key: str, value: Any, reason: str) -> None:
        """Note ``place: key: value: reason``; a value that may be a secret stays out."""
        self.add(place, key, reason if may_be_secret(key) else f"{shown(value)}: {reason}")

    def add_value_at(self, source: str, key: str, value: Any, reason: str) -> None:
        """Note a problem with the *key* of a job, where *source* is the job's own idea of its place."""
        self.add(f"{source}.{key}", "", f"{shown(value)}: {reason}")

    def read(
        self,
        place: str,
        key: str,
        table: Mapping[str, Any],
        readers: Mapping[str, Reader],
        known: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """Return what *readers* make of the values of *table*; what is wrong or unknown is noted and left out.

        *key* is the table's own, dotted. *known* are the names that an unknown one may have meant; without it
        those of *readers*.
        """
        values: dict[str, Any] = {}
        for name, content in table.items():
            reader = readers.get(name)
            if reader is None:
                self.unknown(place, key, name, readers if known is None else known)
                continue
            try:
                values[name] = reader(content)
            except ValueError as error:
                self.add_value(place, f"{key}.{name}", content, str(error))
        return values

    def unknown(self, place: str, key: str, name: str, known: Iterable[str], what: str = "key") -> None:
        """Note an unknown *name* with the nearest known one."""
        bare = name if _BARE_KEY.fullmatch(name) is not None else shown(name)
        self.add(place, f"{key}.{bare}" if key else bare, f"unknown {what}{nearest(name, known)}")


def may_be_secret(key: str) -> bool:
    """Tell whether the value at *key* (dotted) may hold a secret, or have one inside it."""
    return not _SECRET_KEYS.isdisjoint(re.split(r"[.\[\]]", key))


def shown(value: Any) -> str:
    """Return *value* as a message shows it: TOML-like, on one line, cut to a readable length."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = '"' + value.translate(_ESCAPES) + '"'
    elif isinstance(value, Mapping):
        return "{…}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value[:10]) + (", …]" if len(value) > 10 else "]")
    else:
        text = str(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    text = printable(text[: _SHOWN_CHARACTERS + 1])
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def printable(text: str) -> str:
    """Return *text* with control characters, and whatever else a terminal might obey, as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


_ESCAPES = {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean "x"?)'`` for the known name nearest to *name*, or nothing; capitals do not matter."""
    import difflib

    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name[:100].lower(), list(by_lower), 1, 0.6)
    return f' (did you mean "{by_lower[found[0]]}"?)' if found else ""


# ── readers ───────────────────────────────────────────────────────────────────────────────────


def text(value: Any) -> str:
    """Read a string that is not empty."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if not value.strip():
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def line(value: Any) -> str:
    """Read a string that stays on one line."""
    if "\n" in text(value) or "\r" in value:
        raise ValueError("must be a single line")
    return str(value)


def absolute(value: Any) -> str:
    """Read the path of a file or directory that begins at the root."""
    if not line(value).startswith("/"):
        raise ValueError("must be an absolute path")
    return str(value)


def any_text(value: Any) -> str:
    """Read a string, which may be empty."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def boolean(value: Any) -> bool:
    """Read ``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(low: int, high: int = _LARGEST) -> Reader:
    """Return a reader of whole numbers from *low* to *high*."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"must be {low} or more" if high == _LARGEST else f"must be {low}–{high}")
        return value

    return read


def number(low: float, high: float) -> Reader:
    """Return a reader of numbers from *low* to *high*."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError("must be a number")
        if not (low <= value <= high) or math.isnan(value):
            raise ValueError(f"must be {low:g}–{high:g}")
        return float(value)

    return read


def duration(value: Any) -> timedelta:
    """Read a duration such as ``"90s"`` or ``"1h30m"``; a bare number counts seconds, zero is allowed."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError('must be a duration such as "90s", "5m" or "1h30m"')
    if isinstance(value, int):
        if value < 0:
            raise ValueError("must not be negative")
        value = f"{value}s" if value < 10**12 else "1000000w"
    try:
        found = parse_duration(value)
    except ScheduleError as error:
        # Its message begins with its own idea of place and value; ours are better.
        raise ValueError(str(error).removeprefix(f"duration: {value[:100]!r}: ")) from None
    if found > _LONGEST:
        raise ValueError("is too long (a century at most)")
    return found


def positive_duration(value: Any) -> timedelta:
    """Read a duration above zero."""
    found = duration(value)
    if not found:
        raise ValueError("must be more than zero")
    return found


def duration_or_none(value: Any) -> timedelta | None:
    """Read a duration where zero means "no limit"."""
    return duration(value) or None


def size(value: Any) -> int:
    """Read a number of bytes: a whole number, or ``"10MB"``; a thousand and 1024 are told apart by the ``i`` of MiB."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError('must be a size such as "10MB"')
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None or len(value) > 40:
            raise ValueError('must be a size such as "10MB", "512KiB" or a number of bytes')
        value = int(float(match[1]) * float(1024 if match[3] else 1000) ** _SIZE_STEPS[match[2].lower()])
    if not 0 <= value <= _LARGEST:
        raise ValueError("is not a possible size")
    return int(value)


def strings(value: Any) -> tuple[str, ...]:
    """Read a list of strings; a single string is a list of one."""
    if isinstance(value, str):
        return (text(value),)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a string or a list of strings")
    return tuple(text(item) for item in value)


def integers(low: int, high: int) -> Reader:
    """Return a reader of a list of whole numbers (a single one is a list of one), none twice, at least one."""
    one = integer(low, high)

    def read(value: Any) -> tuple[int, ...]:
        items = value if isinstance(value, list) else [value]
        if not items:
            raise ValueError("must not be empty")
        return tuple(dict.fromkeys(one(item) for item in items))

    return read


def choice(values: Iterable[str]) -> Reader:
    """Return a reader of one of some words."""
    known = tuple(values)

    def read(value: Any) -> str:
        if value not in known:
            listed = ", ".join(known)
            raise ValueError(
                f"must be one of {listed}" + (nearest(value, known) if isinstance(value, str) else "")
            )
        return str(value)

    return read


def umask(value: Any) -> int:
    """Read file mode bits: ``"027"`` (octal text) or ``0o027``."""
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value, re.ASCII):
        value = int(value.removeprefix("0o"), 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise ValueError('must be file mode bits such as "027" or 0o027')
    return int(value)


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def environment(value: Any) -> tuple[tuple[str, str], ...]:
    """Read a table of environment variables, sorted by name."""
    if not isinstance(value, dict):
        raise ValueError('must be a table such as { NAME = "value" }')
    for name, content in value.items():
        if _VARIABLE.fullmatch(name) is None:
            raise ValueError(f"{shown(name)} is no name for an environment variable")
        if isinstance(content, bool) or not isinstance(content, (str, int, float)):
            raise ValueError(f"{name} must be a string")
        if "\0" in str(content):
            raise ValueError(f"{name} must not hold a NUL character")
    return tuple(sorted((name, str(content)) for name, content in value.items()))

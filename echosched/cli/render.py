"""Putting documents on the screen: JSON, plain tables, and times as people say them."""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

MOST_FANCY = 500  # rows: rich takes its time for each
TONES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}
STATE_TONES = {
    "succeeded": "good",
    "running": "bold",
    "queued": "dim",
    "failed": "bad",
    "timed_out": "bad",
    "abandoned": "bad",
    "cancelled": "warn",
    "skipped": "warn",
    "missed": "warn",
}


def print_json(document: Any) -> None:
    """Print *document* as one JSON document."""
    # Where stdout cannot take every letter, JSON's own escapes are the ones that programs read.
    plain = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    print(json.dumps(document, indent=2 if sys.stdout.isatty() else None, ensure_ascii=plain))


def colourful() -> bool:
    """Tell whether colours are welcome: a terminal, and no NO_COLOR."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, tone: str | None) -> str:
    """Return *text* in *tone* where colours are welcome."""
    if tone is None or not colourful():
        return text
    return f"\x1b[{TONES[tone]}m{text}\x1b[0m"


def fancy() -> bool:
    """Tell whether tables are for rich to draw: a terminal that moves its cursor, and rich installed."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return False  # looked at first: in a pipe nothing more is imported
    from importlib.util import find_spec

    return find_spec("rich") is not None


def clean(text: object) -> str:
    """Return *text* for one line of a terminal: no control characters of a job's making reach it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]], tones: Sequence[str | None] = ()) -> None:
    """Print *rows* under *header*; *tones* colours whole rows."""
    if len(rows) <= MOST_FANCY and fancy():
        from echosched.cli import pretty

        if pretty.table(header, rows, tones):
            return
    cells = [["" if value is None else clean(value) for value in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]

    def lay(row: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()

    print(paint(lay(header), "bold"))
    for number, row in enumerate(cells):
        print(paint(lay(row), tones[number] if number < len(tones) else None))


def seconds(value: float | None) -> str:
    """Return a duration in seconds as people write it: ``0.4s``, ``12s``, ``3m20s``, ``2h05m``, ``3d4h``."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.2f}s" if value < 1 else f"{value:.1f}s"
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def relative(text: str | None, now: datetime) -> str:
    """Return an RFC 3339 instant as ``3m20s ago`` or ``in 2h05m``."""
    if text is None:
        return ""
    from echosched.clock import parse_rfc3339

    distance = (parse_rfc3339(text) - now).total_seconds()
    return f"in {seconds(distance)}" if distance >= 0 else f"{seconds(-distance)} ago"


def instant(text: str | None) -> str:
    """Return an RFC 3339 instant without its microseconds: ``2026-01-31 09:00:00Z``."""
    return "" if text is None else text[:19].replace("T", " ") + "Z"


def size(count: int | None) -> str:
    """Return a number of bytes as people write it."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""

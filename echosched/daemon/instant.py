"""Instants as text, without importing ``datetime``: RFC 3339, UTC, microseconds, ``Z``."""

from __future__ import annotations

import time


def now_micros() -> int:
    """Return microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def text_of(micros: int) -> str:
    """Return an instant as all files and JSON have it: ``2026-11-21T10:07:00.000001Z``."""
    seconds, fraction = divmod(micros, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:06d}Z"


def now_text() -> str:
    """Return the present instant as text."""
    return text_of(now_micros())

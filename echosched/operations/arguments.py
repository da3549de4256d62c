"""What a request's arguments must be: JSON values in, the model's values out, one line for what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from echosched.clock import EPOCH, LATEST, parse_rfc3339
from echosched.errors import UsageError
from echosched.model import State

MAX_ROWS = 10_000


def state_named(text: str) -> State:
    """Return the state called *text*."""
    try:
        return State(text)
    except ValueError:
        raise UsageError(f"state {text}: unknown (one of {', '.join(State)})") from None


def optional_instant(name: str, text: str | None) -> datetime | None:
    """Return the instant that *text* names, ``None`` for none."""
    if text is None:
        return None
    return instant(name, text)


def instant(name: str, text: str) -> datetime:
    """Return the instant that *text* (argument *name*) names, aware UTC; raises ``UsageError``.

    What lies before 1970 or after 9000 counts as that: no slot is there, and inside nothing overflows.
    """
    try:
        return min(max(parse_rfc3339(text), EPOCH), LATEST)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{name}: {error} (an instant such as 2026-01-31T09:00:00Z)") from None


def history_query(
    job: str | None = None,
    n: int = 50,
    states: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    before_run: int | None = None,
) -> dict[str, Any]:
    """Return what to ask :meth:`echosched.protocols.Store.history` for; raises ``UsageError``."""
    return {
        "job": job,
        "states": [state_named(text) for text in states],
        "since": optional_instant("since", since),
        "until": optional_instant("until", until),
        "before_run": before_run,
        "limit": bounded("n", n, MAX_ROWS),
    }


def whole_number(name: str, value: Any) -> int:
    """Return *value* (argument *name*) if it is an integer; raises ``UsageError``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name}: {value!r} is not a whole number")
    return value


def bounded(name: str, value: Any, most: int) -> int:
    """Return *value* (argument *name*) if it is an integer from 0 to *most*; raises ``UsageError``."""
    number = whole_number(name, value)
    if not 0 <= number <= most:
        raise UsageError(f"{name}: {number} is out of range (0 to {most})")
    return number

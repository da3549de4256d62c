"""Journal lines for people: one event, one readable line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Document = Mapping[str, Any]

_BAD = frozenset(
    {
        "watchdog",
        "store_degraded",
        "reload_failed",
        "job_parked",
        "run_abandoned",
        "notify_failed",
        "sink_failed",
    }
)
_ODD = frozenset(
    {"run_missed", "run_skipped", "run_retry", "worker_exit", "worker_restart", "clock_jump", "cleanup"}
)
_GOOD = frozenset({"ready", "store_recovered", "reload"})


def human(document: Document) -> str:
    """Return *document* (one event of the journal) as one line: instant in UTC, event, what happened.

    Characters that could move a terminal's cursor come out escaped. Fields that this version does not know
    are shown as ``name=value``; nothing is left out silently.
    """
    event = str(document.get("event", "?"))
    say = _SENTENCES.get(event)
    try:
        told = say(document) if say else _fields(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        told = _fields(document)  # an older or a newer writer's shape
    return printable(f"{_instant(document.get('ts'))}  {event:<14} {told}".rstrip())


def tone(document: Document) -> str:
    """Return how *document* sounds: ``good``, ``bad``, ``odd`` or ``plain`` (for colours)."""
    event = document.get("event")
    if event == "run_end":
        state = document.get("state")
        return "good" if state == "succeeded" else "odd" if state in ("cancelled", "skipped") else "bad"
    return "bad" if event in _BAD else "odd" if event in _ODD else "good" if event in _GOOD else "plain"


def printable(text: str) -> str:
    """Return *text* with everything unprintable (control characters, direction marks) escaped."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)


def duration(seconds: float | None) -> str:
    """Return *seconds* as people write them: ``12 ms``, ``3.4 s``, ``2 m 05 s``, ``1 h 03 m``, ``2 d 04 h``."""
    if seconds is None:
        return "?"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _instant(text: object) -> str:
    try:
        at = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return str(text)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _fields(document: Document, *leave: str) -> str:
    hidden = {"ts", "event", *leave}
    return " ".join(
        f"{name}={_value(value)}"
        for name, value in document.items()
        if name not in hidden and value is not None
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)


def _run(d: Document) -> str:
    attempt = f" attempt {d['attempt']}" if d.get("attempt", 1) > 1 else ""
    return f"{d['job']} #{d['run']}{attempt}"


def _origin(d: Document) -> str:
    slot = f" slot {_instant(d['slot'])}" if d.get("slot") else ""
    return f"({d.get('trigger', '?')}{slot})"


def _because(d: Document, name: str = "error") -> str:
    return f": {d[name]}" if d.get(name) else ""


def _run_end(d: Document) -> str:
    told = f"{_run(d)} {d['state']}"
    if d.get("duration_seconds") is not None:
        told += f" in {duration(d['duration_seconds'])}"
    facts = []
    if d.get("exit_code"):
        facts.append(f"exit code {d['exit_code']}")
    if d.get("signal"):
        facts.append(f"signal {d['signal']}")
    if d.get("lag_seconds") is not None:
        facts.append(f"lag {duration(d['lag_seconds'])}")
    return told + (f" ({', '.join(facts)})" if facts else "") + _because(d)


def _tick(d: Document) -> str:
    soonest = sorted((at, name) for name, at in d["next"].items() if at)[:3]
    coming = ", ".join(f"{name} {_instant(at)[:-5]}Z" for at, name in soonest)
    return f"{d['tick']}" + (f", next: {coming}" if coming else ", nothing to come")


def _worker_exit(d: Document) -> str:
    how = f"signal {d['signal']}" if d.get("signal") else f"exit code {d['exit_code']}"
    return f"worker {d['pid']} ended: {how}"


def _reload(d: Document) -> str:
    parts = [f"{what} {', '.join(d[what])}" for what in ("added", "removed", "changed") if d[what]]
    return f"{d['jobs']} jobs" + (f"; {'; '.join(parts)}" if parts else "; nothing changed")


_SENTENCES: dict[str, Callable[[Document], str]] = {
    "startup": lambda d: (
        f"echosched {d['version']}, {d['mode']}, pid {d['pid']} {_fields(d['config'])}".rstrip()
    ),
    "ready": lambda d: f"serving {d['jobs']} jobs, pid {d['pid']}",
    "tick": _tick,
    "reload": _reload,
    "reload_failed": lambda d: "the old configuration goes on: " + "; ".join(d["problems"]),
    "shutdown": lambda d: f"pid {d['pid']}" + (f" by {d['signal']}" if d.get("signal") else ""),
    "cleanup": lambda d: f"left-overs of pid {d['removed_pid']} removed",
    "supervisor_start": lambda d: f"pid {d['pid']}",
    "worker_exit": _worker_exit,
    "worker_restart": lambda d: f"restart {d['restarts']} in {duration(d['delay_seconds'])}",
    "watchdog": lambda d: f"worker {d['pid']} has not moved for {duration(d['age_seconds'])} and is replaced",
    "clock_jump": lambda d: (
        f"{duration(abs(d['seconds']))} {'forward' if d['seconds'] >= 0 else 'back'}"
        + (" (the machine slept)" if d.get("suspended") else "")
    ),
    "slot_claimed": lambda d: f"{_run(d)} {_origin(d)}",
    "run_start": lambda d: f"{_run(d)} {_origin(d)}" + (f" pid {d['pid']}" if d.get("pid") else ""),
    "run_end": _run_end,
    "run_retry": lambda d: f"{_run(d)} again at {_instant(d['retry_at'])}{_because(d)}",
    "run_skipped": lambda d: f"{_run(d)} {_origin(d)}{_because(d, 'reason')}",
    "run_missed": lambda d: f"{_run(d)} {_origin(d)}{_because(d, 'reason')}",
    "run_abandoned": lambda d: f"{_run(d)} {_origin(d)}{_because(d, 'reason')}",
    "run_adopted": lambda d: f"{_run(d)} goes on as pid {d['pid']}",
    "job_paused": lambda d: str(d["job"]),
    "job_resumed": lambda d: str(d["job"]),
    "job_parked": lambda d: f"{d['job']}: {d['reason']}",
    "retention_done": lambda d: (
        f"{d['runs']} runs, {d['slots']} slots, {d['outputs']} outputs, {d['reports']} reports, {d['bytes']} bytes"
    ),
    "self_heal_startup": lambda d: f"{d['retried_count']} jobs run again",
    "store_degraded": lambda d: f"runs are kept in memory: {d['reason']}",
    "store_recovered": lambda d: (
        f"{d['written']} records written, {d['lost']} lost, after {duration(d['seconds'])}"
    ),
    "notify_failed": lambda d: f"{d['target']}: {d['reason']}" + (" (given up)" if d.get("final") else ""),
}

"""A message: values that survive a restart as JSON, and the words made of them just before sending."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from echosched.clock import parse_rfc3339, rfc3339

_INSTANTS = ("at", "slot", "since")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something that one target is to be told. *count* and *since* sum up what happened before or meanwhile.

    An empty *job* means the scheduler itself. *occasion* ``start`` and ``ended`` are pings for a watcher.
    """

    target: str
    occasion: str
    job: str
    at: datetime
    run: int | None = None
    attempt: int = 1
    slot: datetime | None = None
    trigger: str | None = None
    state: str | None = None
    why: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    duration_seconds: float | None = None
    output_bytes: int | None = None
    count: int = 1
    since: datetime | None = None
    again: bool = False  # only news for a message that nobody has read yet

    @property
    def is_ping(self) -> bool:
        """Tell whether this goes to a machine that watches, not to people."""
        return self.occasion in ("start", "ended")

    @property
    def is_alone(self) -> bool:
        """Tell whether this is sent by itself and at once, never in a summary."""
        return self.is_ping or self.occasion == "output"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        document = asdict(self)
        for name in _INSTANTS:
            if document[name] is not None:
                document[name] = rfc3339(document[name])
        return {name: value for name, value in document.items() if value is not None and name != "again"}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Message:
        """Return the message of :meth:`as_dict`; unknown names of a newer version are left out."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        for name in _INSTANTS:
            if values.get(name) is not None:
                values[name] = parse_rfc3339(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What a kind sends: words, the facts behind them, and the output (secrets already masked)."""

    subject: str
    text: str
    facts: Mapping[str, Any]
    output: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def first(self) -> Message:
        """Return the message, or the first of a summary."""
        return self.messages[0]


def letter(messages: Sequence[Message], outputs: Mapping[int, str], *, host: str) -> Letter:
    """Return the words for one message, or for a summary of several. Pure; *outputs* by run number."""
    first = messages[0]
    if len(messages) == 1:
        output = outputs.get(first.run or 0, "")
        subject = headline(first)
        text = body(first, output, host)
    else:
        output = ""
        counts: dict[str, int] = {}
        for message in messages:
            counts[message.occasion] = counts.get(message.occasion, 0) + 1
        told = ", ".join(f"{count} {occasion}" for occasion, count in counts.items())
        subject = f"{len(messages)} messages: {told}"
        text = "\n\n".join(body(message, outputs.get(message.run or 0, ""), host) for message in messages)
    facts = {
        **_facts(first),
        "host": host,
        "subject": subject,
        "text": text,
        "output": output,
        "messages": [_facts(message) for message in messages],
    }
    return Letter(
        subject=f"[{host}] {subject}", text=text, facts=facts, output=output, messages=tuple(messages)
    )


def headline(message: Message) -> str:
    """Return what happened in a few words."""
    job = message.job or "the scheduler"
    times = f" {message.count} times" if message.count > 1 else ""
    match message.occasion:
        case "failure":
            state = {"timed_out": "timed out", "failed": "failed"}.get(message.state or "", "does not work")
            return f"{job} {state}{times}"
        case "recovery":
            return (
                f"{job} works again after {_plural(message.count, 'failure')}"
                if message.count
                else f"{job} runs again"
            )
        case "missed":
            return f"{job} missed {_plural(message.count, 'slot')}"
        case "abandoned":
            return f"{job} was abandoned{times}"
        case "slow":
            return f"{job} is slow"
        case "overdue":
            return f"{job} is overdue"
        case "output":
            return f"{job} printed something" + (
                f" and {_state(message)}" if message.state != "succeeded" else ""
            )
        case _:
            return f"{job} {_state(message)}"


def body(message: Message, output: str, host: str) -> str:
    """Return the whole text for people."""
    lines = [f"{headline(message)}."]
    if message.why:
        lines.append(f"Why: {message.why}")
    if message.run is not None:
        run = f"Run {message.run}" + (f", attempt {message.attempt}" if message.attempt > 1 else "")
        if message.trigger:
            run += f", by {message.trigger}"
        if message.exit_code is not None:
            run += f", exit code {message.exit_code}"
        if message.signal is not None:
            run += f", signal {message.signal}"
        lines.append(run)
    if message.slot is not None:
        lines.append(f"Slot: {_instant(message.slot)}")
    if message.since is not None:
        lines.append(f"Since: {_instant(message.since)}")
    if message.duration_seconds is not None:
        lines.append(f"Took: {_duration(message.duration_seconds)}")
    lines.append(f"At: {_instant(message.at)}, on {host}")
    if output:
        lines += ["", "Output:", output.rstrip("\n")]
    return "\n".join(lines)


def one_line(text: str, limit: int = 200) -> str:
    """Return *text* on one printable line: fit for a mail header."""
    flat = " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def plain(text: str) -> str:
    """Return *text* without what would move a terminal's cursor (colour sequences too), line ends kept."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text.replace("\r\n", "\n"))
    return "".join(ch if ch.isprintable() or ch in "\n\t" else "\ufffd" for ch in text)


def _facts(message: Message) -> dict[str, Any]:
    facts = message.as_dict()
    facts.pop("target", None)
    return {"event": facts.pop("occasion"), "summary": headline(message), **facts}


def _state(message: Message) -> str:
    return (message.state or "ended").replace("_", " ")


def _instant(instant: datetime) -> str:
    return f"{rfc3339(instant)[:19].replace('T', ' ')} UTC"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return str(timedelta(seconds=round(seconds)))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""kind = "webhook": one HTTP request with a JSON document, or with a template's text.

Options: ``url``, ``method`` (POST), ``headers``, ``template``, ``timeout``. Without a template the body is
the message as JSON (``event job run state summary text output …``). In a template ``$name`` and
``${name}`` stand for those fields, ``$$`` for a dollar sign; a template that begins with ``{`` or ``[`` is
JSON, and what is put into it is escaped for the inside of a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Template
from typing import TYPE_CHECKING, Any

from echosched.notify import DeliveryError
from echosched.notify.message import Letter
from echosched.notify.web import call, seconds

if TYPE_CHECKING:
    from echosched.protocols import Secrets


async def send(letter: Letter, options: Mapping[str, Any], resolve: Secrets) -> None:
    """Make the call that tells *letter*."""
    template = options.get("template")
    # References are resolved before the message comes in: a job that prints ${env:X} gets no secret by it.
    body, kind = fill(resolve(template) if template else None, letter.facts)
    headers = {"Content-Type": kind}
    pairs = options.get("headers") or ()
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        headers = {known: old for known, old in headers.items() if known.lower() != name.lower()}
        headers[name] = resolve(value)
    await call(
        resolve(options["url"]),
        method=resolve(options.get("method") or "POST").upper(),
        body=body,
        headers=headers,
        timeout_seconds=seconds(options),
    )


def fill(template: str | None, facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the body and its content type."""
    if not template:
        return _json(facts).encode(), "application/json"
    is_json = template.lstrip().startswith(("{", "["))
    values = {name: _word(value) for name, value in facts.items()}
    for name in (
        "job",
        "run",
        "state",
        "why",
        "slot",
        "at",
        "exit_code",
        "count",
        "since",
        "duration_seconds",
    ):
        values.setdefault(name, "")
    if is_json:
        values = {name: json.dumps(value)[1:-1] for name, value in values.items()}
    try:
        text = Template(template).substitute(values)
    except KeyError as err:
        raise DeliveryError(f"template: ${err.args[0]}: no such field") from None
    except ValueError:
        raise DeliveryError("template: a $ stands alone (write $$)") from None
    return text.encode(
        "utf-8", "backslashreplace"
    ), "application/json" if is_json else "text/plain; charset=utf-8"


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, separators=(",", ":"))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

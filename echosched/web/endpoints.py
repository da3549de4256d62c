"""The shape of an endpoint: one declaration that routes, validates and documents it.

A parameter that is declared once cannot be checked in one way and documented in another:
:mod:`echosched.web.openapi` prints what :func:`read` enforces.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web

from echosched.clock import EPOCH, LATEST, parse_rfc3339
from echosched.errors import UsageError

MAX_RUN = 2**63 - 1
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_KINDS = {
    "integer": "integer",
    "flag": "boolean",
    "instant": "string",
    "text": "string",
    "choice": "string",
    "choices": "array",
}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    *kind* is ``integer``, ``flag``, ``instant``, ``text``, ``choice`` (one of *values*) or ``choices`` (some).
    """

    name: str
    kind: str = "text"
    where: str = "query"  # or "path"
    text: str = ""
    default: Any = None
    minimum: int = 0
    maximum: int = MAX_RUN
    values: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of this parameter."""
        schema: dict[str, Any] = {"type": _KINDS[self.kind]}
        if self.kind == "integer":
            schema |= {"minimum": self.minimum, "maximum": self.maximum}
        elif self.kind == "instant":
            schema["format"] = "date-time"
        elif self.kind == "choice":
            schema["enum"] = list(self.values)
        elif self.kind == "choices":
            schema["items"] = {"type": "string", "enum": list(self.values)}
        elif self.kind == "text":
            # A path segment cannot be empty, and a NUL is in no name.
            schema |= {"maxLength": 200, "minLength": 1 if self.where == "path" else 0}
        if self.default is not None:
            schema["default"] = self.default
        return schema

    def parse(self, texts: list[str]) -> Any:
        """Return the value that *texts* (the parameter's occurrences) mean; raises ``UsageError``."""
        if self.kind == "choices":
            return self._choices(texts)
        if len(texts) > 1:
            raise UsageError(f"{self.name}: given {len(texts)} times (once is meant)")
        text = texts[0]
        if self.kind == "integer":
            return self._integer(text)
        if self.kind == "flag":
            return self._flag(text)
        if self.kind == "instant":
            return self._instant(text)
        if self.kind == "choice":
            return self._choices([text], one=True)[0]
        if len(text) > 200:
            raise UsageError(f"{self.name}: longer than 200 characters")
        return text

    def _integer(self, text: str) -> int:
        if not _INTEGER.fullmatch(text) or not self.minimum <= int(text) <= self.maximum:
            raise UsageError(f"{self.name}: {text[:40]!r}: must be an integer, {self.minimum}–{self.maximum}")
        return int(text)

    def _flag(self, text: str) -> bool:
        lowered = text.lower()
        if lowered not in _TRUE and lowered not in _FALSE:
            raise UsageError(f"{self.name}: {text[:40]!r}: must be 1 or 0 (or true or false)")
        return lowered in _TRUE

    def _instant(self, text: str) -> datetime:
        try:
            # No slot lies outside these; inside them adding a month cannot overflow.
            return min(max(parse_rfc3339(text), EPOCH), LATEST)
        except (ValueError, OverflowError):
            raise UsageError(
                f"{self.name}: {text[:40]!r}: must be an instant such as 2026-01-31T08:00:00Z"
            ) from None

    def _choices(self, texts: list[str], *, one: bool = False) -> tuple[str, ...]:
        chosen = texts if one else [part for text in texts for part in text.split(",") if part]
        for part in chosen:
            if part not in self.values:
                raise UsageError(f"{self.name}: {part[:40]!r}: must be one of {', '.join(self.values)}")
        return tuple(dict.fromkeys(chosen))


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a handler sees it: validated parameters, and the aiohttp request for those that stream."""

    params: Mapping[str, Any]
    request: web.Request

    def __getitem__(self, name: str) -> Any:
        """Return a parameter's value (its default where it was not given)."""
        return self.params[name]


@dataclass(frozen=True, slots=True)
class Answer:
    """A handler's answer: the document's fields beside ``ok``, and a status other than 200 if need be."""

    fields: Mapping[str, Any]
    status: int = 200


Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path.

    *open_to_all*: needs no key. *guarded*: falls under the 30 s guard (streams do not). *answer* is the JSON
    schema of the fields beside ``ok``, *errors* the HTTP status codes that this endpoint adds to the usual ones.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    params: tuple[Param, ...] = ()
    answer: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    open_to_all: bool = False
    guarded: bool = True
    content_type: str = "application/json"


def read(endpoint: Endpoint, request: web.Request, body: Mapping[str, Any]) -> Call:
    """Return *request* as a :class:`Call`; a parameter may also stand in the JSON *body* (the query wins)."""
    values: dict[str, Any] = {}
    for param in endpoint.params:
        values[param.name] = param.default
        if param.where == "path":
            values[param.name] = param.parse([request.match_info[param.name]])
            continue
        # Both are checked, also where one of them does not count.
        if param.name in body:
            values[param.name] = param.parse([_as_text(param, body[param.name])])
        if param.name in request.query:
            values[param.name] = param.parse(request.query.getall(param.name))
    return Call(values, request)


def _as_text(param: Param, value: Any) -> str:
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif param.kind == "flag" or not isinstance(value, str | int):
        raise UsageError(f"{param.name}: must be {_KINDS[param.kind]}")
    return str(value)

"""The wire: one JSON object a line, each way, over a Unix socket.

::

    {"op": "trigger", "args": {"job": "brief"}}\\n
    {"ok": true, "data": {"run": 12}}\\n
    {"ok": false, "error": {"code": "not_found", "message": "job brif: there is no such job (…)"}}\\n

A streaming operation answers with any number of ``{"ok": true, "data": …, "more": true}`` lines and
ends with one without ``more``. A connection may carry several requests, one after another.
"""

from __future__ import annotations

import json

from echosched import errors

MAX_LINE = 1024 * 1024
"""Bytes a request line may have."""


def encode(document: object) -> bytes:
    """Return *document* as one line."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, object]:
    """Return the object on *line*; raises ``UsageError`` for anything else."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise errors.UsageError("control request: not a line of JSON") from None
    if not isinstance(document, dict):
        raise errors.UsageError("control request: not a JSON object")
    return document


def failure(error: Exception) -> dict[str, object]:
    """Return the answer that carries *error*."""
    code = error.code if isinstance(error, errors.EchoschedError) else "internal"
    message = str(error) if isinstance(error, errors.EchoschedError) else f"{type(error).__name__}: {error}"
    answer: dict[str, object] = {"code": code, "message": message}
    if isinstance(error, errors.ConfigError):
        answer["problems"] = list(error.problems)
    return {"ok": False, "error": answer}


def revive(answer: dict[str, object]) -> errors.EchoschedError:
    """Return the exception that a failure *answer* stands for, of the class that its code names."""
    detail = answer.get("error")
    if not isinstance(detail, dict):
        return errors.Unreachable("control socket: an answer without result and without error")
    code, message = str(detail.get("code")), str(detail.get("message"))
    problems = detail.get("problems")
    if code == errors.ConfigError.code and isinstance(problems, list):
        return errors.ConfigError([str(problem) for problem in problems])
    for kind in (
        errors.NotFound,
        errors.Conflict,
        errors.UsageError,
        errors.PermissionRefused,
        errors.ScheduleError,
    ):
        if kind.code == code:
            return kind(message)
    error = errors.EchoschedError(message)
    error.code = code
    return error

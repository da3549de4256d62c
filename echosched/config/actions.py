"""What a job does: from its ``command``, ``http``, ``python`` or ``builtin`` key to one action value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from echosched.config import values as v
from echosched.model import Action, BuiltinAction, CommandAction, HttpAction, PythonAction

ACTION_KEYS = ("command", "http", "python", "builtin")
BUILTINS = ("brief", "report", "selfheal", "retention")
BUILTINS_IN_A_PROCESS = ("brief", "report")  # where the others run, the worker is

# Keys of a job that mean something only to some of the actions (and :data:`job_keys.KINDS_OF`).
ACTION_OPTIONS: dict[str, tuple[str, ...]] = {
    "args": ("command", "python"),
    "stdin": ("command",),
    "shell": ("command",),
    "success_codes": ("command", "python"),
}

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_METHOD = re.compile(r"[A-Z]{1,20}", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110 §5.6.2


def read_action(
    kind: str, value: Any, options: Mapping[str, Any], place: str, key: str, problems: v.Problems
) -> Action | None:
    """Return the action that *kind* and *value* describe; ``None`` when *problems* got the reason."""
    try:
        if kind == "command":
            options = {**options, "args": tuple(_word(word) for word in options.get("args", ()))}
    except ValueError as error:
        problems.add(place, f"{key}.args", str(error))
        return None
    if kind == "http":
        return _http(value, place, f"{key}.http", problems)
    try:
        if kind == "command":
            return _command(value, options)
        if kind == "python":
            return _python(value, options)
        return BuiltinAction(v.choice(BUILTINS)(value))
    except ValueError as error:
        problems.add_value(place, f"{key}.{kind}", value, str(error))
        return None


def _command(value: Any, options: Mapping[str, Any]) -> CommandAction:
    command: str | tuple[str, ...]
    if isinstance(value, list):
        if not value or not all(isinstance(word, str) for word in value):
            raise ValueError("must be a command line, or a list of strings with the program first")
        v.text(value[0])
        command = tuple(v.any_text(word) for word in value)
    else:
        command = v.text(value)
    return CommandAction(
        command,
        args=options["args"],
        shell=options.get("shell"),
        stdin=options.get("stdin"),
        success_codes=options.get("success_codes", (0,)),
    )


def _word(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("must be strings or numbers")
    return str(value)


def _python(value: Any, options: Mapping[str, Any]) -> PythonAction:
    if _TARGET.fullmatch(v.line(value)) is None:
        raise ValueError('must be "module:function"')
    return PythonAction(value, args=options.get("args", ()), success_codes=options.get("success_codes", (0,)))


# ── http ──────────────────────────────────────────────────────────────────────────────────────


def http_url(value: Any) -> str:
    """Read an ``http``/``https`` URL; one that begins with a reference is judged at run time."""
    url = v.line(value)
    if not re.match(r"https?://[^/\s]|\$\{", url, re.IGNORECASE):
        raise ValueError("must begin with http:// or https://")
    if re.search(r"\s", url):
        raise ValueError("must not hold white space (write %20)")
    return url


def http_headers(value: Any) -> tuple[tuple[str, str], ...]:
    """Read a table of header fields, in the order written."""
    if not isinstance(value, dict):
        raise ValueError('must be a table such as { Accept = "text/plain" }')
    for name, content in value.items():
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{v.shown(name)} is no name for a header")
        if not isinstance(content, str):
            raise ValueError(f"{name} must be a string")
        if any(c in content for c in "\r\n\0"):
            raise ValueError(f"{name} must be a single line")
    return tuple(value.items())


def _method(value: Any) -> str:
    method = v.line(value).upper()
    if _METHOD.fullmatch(method) is None:
        raise ValueError("must be an HTTP method such as GET or POST")
    return method


def _pattern(value: Any) -> str:
    try:
        re.compile(v.text(value))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return str(value)


def _json(value: Any) -> str:
    import json

    try:
        if isinstance(value, str):
            json.loads(value)
            return value
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("is no JSON document (write a table, or JSON as a string)") from None


def _file(value: Any) -> str:
    if not v.line(value).startswith(("/", "${")):
        raise ValueError("must be an absolute path")
    return str(value)


_HTTP_KEYS: dict[str, v.Reader] = {
    "url": http_url,
    "method": _method,
    "headers": http_headers,
    "body": v.any_text,
    "json": _json,
    "expect": v.integers(100, 599),
    "expect_body": _pattern,
    "follow_redirects": v.boolean,
    "verify": v.boolean,
    "ca_file": _file,
    "cert_file": _file,
    "key_file": _file,
}


def _http(value: Any, place: str, key: str, problems: v.Problems) -> HttpAction | None:
    table = {"url": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        problems.add_value(place, key, value, "must be a URL, or a table with a url")
        return None
    before = len(problems.lines)
    read = problems.read(place, key, table, _HTTP_KEYS)
    if "url" not in table:
        problems.add(place, f"{key}.url", "missing")
    if "body" in table and "json" in table:
        problems.add(place, f"{key}.json", "a call has one body: give body or json")
    if "key_file" in table and "cert_file" not in table:
        problems.add(place, f"{key}.key_file", "needs cert_file")
    return HttpAction(**read) if len(problems.lines) == before else None

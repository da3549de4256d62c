"""The OpenAPI document, printed from the table of endpoints that also routes and validates."""

from __future__ import annotations

from typing import Any

from echosched.version import __version__
from echosched.web.endpoints import Endpoint, Param

_ERRORS = {
    400: "A parameter or the body is wrong",
    401: "No key, or a wrong one",
    403: "Refused: foreign host name, or missing rights",
    404: "No such job or run",
    405: "This address does not take that method",
    408: "The body came too slowly",
    409: "It makes no sense in the present state",
    413: "The body is larger than 1 MiB",
    429: "Too many wrong keys",
    500: "A bug, or the scheduler could not do it; the message says why",
    503: "The scheduler is not running, does not answer, or is not well",
}
_KEYED = (401, 429)
_NULLABLE_NUMBER = {"type": ["number", "null"]}
_NULLABLE_INTEGER = {"type": ["integer", "null"]}
_NULLABLE_INSTANT = {"type": ["string", "null"], "format": "date-time"}
_NULLABLE_TEXT = {"type": ["string", "null"]}

_STATUS = {
    "type": "object",
    "required": ["running", "pid", "health"],
    "properties": {
        "running": {"type": "boolean"},
        "pid": _NULLABLE_INTEGER,
        "health": {"type": "string"},
        "last_activity": _NULLABLE_INSTANT,
        "started_at": _NULLABLE_INSTANT,
        "uptime_seconds": _NULLABLE_NUMBER,
    },
}
_RUN = {
    "type": "object",
    "required": ["run", "job", "state"],
    "properties": {
        "run": {"type": "integer"},
        "job": {"type": "string"},
        "slot": _NULLABLE_INSTANT,
        "trigger": {"type": "string"},
        "attempt": {"type": "integer"},
        "state": {"type": "string"},
        "queued_at": _NULLABLE_INSTANT,
        "started_at": _NULLABLE_INSTANT,
        "ended_at": _NULLABLE_INSTANT,
        "duration_seconds": _NULLABLE_NUMBER,
        "lag_seconds": _NULLABLE_NUMBER,
        "exit_code": _NULLABLE_INTEGER,
        "signal": _NULLABLE_INTEGER,
        "error": _NULLABLE_TEXT,
        "output_bytes": _NULLABLE_INTEGER,
        "owner": _NULLABLE_TEXT,
    },
}
_ERROR = {
    "type": "object",
    "required": ["ok", "error"],
    "properties": {
        "ok": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def document(endpoints: list[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of *endpoints*."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "EchoSched",
            "version": __version__,
            "description": "Every answer is {ok: true, …} or {ok: false, error: {code, message}}.",
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Dash-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {"Status": _STATUS, "Run": _RUN, "Error": _ERROR},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": _responses(endpoint),
    }
    if endpoint.params:
        operation["parameters"] = [_parameter(param) for param in endpoint.params]
    if endpoint.method == "POST":
        operation["requestBody"] = _request_body(endpoint)
    if endpoint.open_to_all:
        operation["security"] = []
    return operation


def _parameter(param: Param) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": param.name,
        "in": param.where,
        "required": param.where == "path",
        "description": param.text,
        "schema": param.schema(),
    }
    return document


def _request_body(endpoint: Endpoint) -> dict[str, Any]:
    named = {param.name: param.schema() for param in endpoint.params if param.where == "query"}
    schema = {"type": "object", "properties": named}
    return {
        "required": False,
        "description": "May be left out; parameters of the query may stand here instead.",
        "content": {"application/json": {"schema": schema}},
    }


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    good = {
        "type": "object",
        "required": ["ok", *endpoint.answer],
        "properties": {"ok": {"const": True}, **endpoint.answer},
    }
    schema = good if endpoint.content_type == "application/json" else {"type": "string"}
    responses: dict[str, Any] = {
        "200": {"description": "As asked", "content": {endpoint.content_type: {"schema": schema}}}
    }
    codes = {400, 403, 500, *endpoint.errors}
    if not endpoint.open_to_all:
        codes |= {413, *_KEYED}
    if endpoint.method == "POST":
        codes.add(408)
    if endpoint.guarded:
        late = {"type": "object", "required": ["ok"], "properties": {"ok": {"const": True}}}
        responses["202"] = {
            "description": "Still working past the guard's time; data is the state now",
            "content": {"application/json": {"schema": late}},
        }
    for code in sorted(codes):
        responses[str(code)] = {
            "description": _ERRORS[code],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return responses

"""How answers look: ``{"ok": true, …}`` or ``{"ok": false, "error": {"code", "message"}}``, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from echosched.errors import EchoschedError

SECURITY_HEADERS = {
    # Answers of the API are documents for programs; a browser that is led to one must do nothing with it.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "echosched",  # in place of the versions of everything below us
}

_STATUS_OF_CODE = {
    "usage": HTTPStatus.BAD_REQUEST,
    "bad_schedule": HTTPStatus.BAD_REQUEST,
    "bad_request": HTTPStatus.BAD_REQUEST,
    "permission": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "already_running": HTTPStatus.CONFLICT,
    "bad_config": HTTPStatus.CONFLICT,
    "not_running": HTTPStatus.SERVICE_UNAVAILABLE,
    "unreachable": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}

_CODE_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    417: "bad_request",
    429: "slow_down",
    500: "internal",
    503: "unavailable",
}


def encode(document: Any) -> bytes:
    """Return *document* as compact JSON in UTF-8."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, default=str).encode(
        "utf-8", "backslashreplace"
    )


def good(fields: Mapping[str, Any], status: int = 200) -> web.Response:
    """Return ``{"ok": true}`` and *fields*."""
    return _json({"ok": True, **fields}, status)


def ready(body: bytes) -> web.Response:
    """Return an answer that is encoded already."""
    return web.Response(body=body, content_type="application/json", headers=SECURITY_HEADERS)


def bad(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error answer; *code* defaults to the HTTP status's own."""
    error = {"code": code or _CODE_OF_STATUS.get(status, "error"), "message": message}
    response = _json({"ok": False, "error": error}, status)
    response.headers.update(headers or {})
    return response


def of_error(error: EchoschedError) -> web.Response:
    """Return the answer for an error raised on purpose."""
    status = _STATUS_OF_CODE.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    return bad(int(status), str(error), code=error.code)


def of_http(error: web.HTTPException) -> web.Response:
    """Return the uniform answer for what aiohttp raised (404, 405, 413 …)."""
    message = {
        404: "no such address (see /openapi.json)",
        405: "this address does not take that method",
        413: "the body is larger than 1 MiB",
    }.get(error.status, error.reason)
    kept = {name: value for name, value in error.headers.items() if name in ("Allow", "Location")}
    return bad(error.status, message, headers=kept)


def _json(document: Mapping[str, Any], status: int) -> web.Response:
    return web.Response(
        body=encode(document), status=status, content_type="application/json", headers=SECURITY_HEADERS
    )

"""One HTTP call of a message: total time-out, no redirects, and errors that name the host, never the URL.

A webhook's URL is a secret in itself; its path must not reach the journal.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from echosched import tls
from echosched.notify import DeliveryError


async def call(
    url: str, *, method: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float
) -> None:
    """Make the call; raises ``DeliveryError`` unless the answer is a 2xx within *timeout_seconds*."""
    # The import takes a quarter of a second: in a thread, the loop goes on beating.
    aiohttp: Any = await asyncio.to_thread(_client)
    try:
        host = urlsplit(url).hostname or "?"
    except ValueError:
        raise DeliveryError("url: is none") from None
    try:
        limit = aiohttp.ClientTimeout(total=timeout_seconds)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(
                method, url, data=body, headers={"User-Agent": "echosched", **headers}, allow_redirects=False
            ) as answer,
        ):
            if not 200 <= answer.status < 300:
                raise DeliveryError(f"{host}: answered {answer.status}")
    except TimeoutError:
        raise DeliveryError(f"{host}: no answer within {timeout_seconds:g} s") from None
    except aiohttp.ClientConnectorCertificateError:
        raise DeliveryError(f"{host}: its certificate is not trusted") from None
    except (aiohttp.InvalidURL, ValueError):
        raise DeliveryError("url: is none") from None
    except (aiohttp.ClientError, OSError) as err:
        reason = getattr(err, "strerror", None) or type(err).__name__
        raise DeliveryError(f"{host}: {reason}") from None


def _client() -> Any:
    tls.bring_in()
    return importlib.import_module("aiohttp")


def seconds(options: Mapping[str, Any]) -> float:
    """Return the option ``timeout`` in seconds, 30 without it."""
    timeout = options.get("timeout")
    return float(timeout.total_seconds()) if timeout is not None else 30.0

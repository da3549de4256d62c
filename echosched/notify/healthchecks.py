"""kind = "healthchecks": pings a watcher (healthchecks.io or a server of one's own) at start, success and failure.

Options: ``url`` (``{job}`` in it stands for the job's name), ``timeout``. A job's own key ``healthcheck`` is such a
URL as well. The outside watcher notices what nothing on this machine can tell: that the machine is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from echosched.notify import DeliveryError
from echosched.notify.message import Letter
from echosched.notify.web import call, seconds

if TYPE_CHECKING:
    from echosched.protocols import Secrets

_MOST_BYTES = 10_000


async def send(letter: Letter, options: Mapping[str, Any], resolve: Secrets) -> None:
    """Ping; the end of the output goes along with an end."""
    message = letter.first
    if not options.get("url"):
        raise DeliveryError("url: missing (give the job a healthcheck, or this table a url)")
    if message.occasion == "start":
        body = b""
    else:
        body = (letter.output or message.why or "").encode("utf-8", "backslashreplace")[-_MOST_BYTES:]
    await call(
        address(resolve(options["url"]), message.job, message.occasion, message.state),
        method="POST",
        body=body,
        headers={"Content-Type": "text/plain; charset=utf-8"},
        timeout_seconds=seconds(options),
    )


def address(url: str, job: str, occasion: str, state: str | None) -> str:
    """Return the URL to ping: as it is for a success, with ``/start`` or ``/fail`` behind its path otherwise."""
    parts = urlsplit(url.replace("{job}", quote(job, safe="")))
    end = "/start" if occasion == "start" else "" if state == "succeeded" else "/fail"
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + end)) if end else urlunsplit(parts)

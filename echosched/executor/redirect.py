"""Where a redirect leads, and what of a request may go there. Pure.

Another server gets nothing that was meant for the first one: the job's own headers (keys, mostly) stay
behind, and so does a body with a secret in it. The same host by its usual TLS port counts as the same
server, since ``http://host`` → ``https://host`` is what most redirects are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from echosched.errors import ExecutionError

STATUSES = frozenset({301, 302, 303, 307, 308})
MOST = 10  # in a row

_HARMLESS = frozenset({"accept", "accept-language", "user-agent", "content-type"})
_OF_A_BODY = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Hop:
    """One request on the way: what is sent, and where to."""

    url: str
    method: str
    headers: Mapping[str, str]
    data: bytes | None = None


def following(hop: Hop, status: int, location: str, *, secret: bool) -> Hop:
    """Return the request that a redirect asks for; raises ``ExecutionError`` where it must not be made.

    *secret* tells that the body holds something that no other server may see.
    """
    try:
        url = urljoin(hop.url, location)
        there, here = urlsplit(url), urlsplit(hop.url)
        fine = there.scheme in _PORTS and bool(there.hostname) and there.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise ExecutionError("HTTP: the redirect leads to what is no http:// or https:// address")
    method, data = hop.method, hop.data
    headers = dict(hop.headers)
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, data = "GET", None
        headers = {name: value for name, value in headers.items() if name.lower() not in _OF_A_BODY}
    if not trusted(here, there):
        if secret and data is not None:
            raise ExecutionError(
                f"HTTP: the redirect to {there.hostname} would take a secret in the body to another server"
                " (name that address in url)"
            )
        headers = {name: value for name, value in headers.items() if name.lower() in _HARMLESS}
    elif "@" in here.netloc and "@" not in there.netloc:
        account = here.netloc.rpartition("@")[0]
        url = there._replace(netloc=f"{account}@{there.netloc}").geturl()
    return Hop(url, method, headers, data)


def trusted(here: SplitResult, there: SplitResult) -> bool:
    """Tell whether *there* is the same server as *here*, or the same one by TLS."""
    if (here.hostname or "").rstrip(".") != (there.hostname or "").rstrip("."):
        return False
    ports = here.port or _PORTS[here.scheme], there.port or _PORTS[there.scheme]
    if here.scheme == there.scheme:
        return ports[0] == ports[1]
    return (here.scheme, there.scheme) == ("http", "https") and ports == (80, 443)

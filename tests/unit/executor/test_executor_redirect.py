"""What a redirect takes along, and where it must not lead."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from echosched.errors import ExecutionError
from echosched.executor.redirect import Hop, following, trusted

KEYS = {
    "X-Dash-Key": "k",
    "Authorization": "a",
    "Cookie": "c",
    "Accept": "text/html",
    "Content-Type": "text/plain",
}


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        ("http://a/", "http://a/b", True),
        ("http://a/", "http://A:80/", True),
        ("http://a/", "https://a/", True),
        ("http://a/", "https://a.:443/", True),
        ("https://a/", "http://a/", False),
        ("http://a:8080/", "https://a:8443/", False),
        ("http://a/", "http://a:81/", False),
        ("http://a/", "http://b/", False),
        ("http://a/", "http://a.b/", False),
        ("http://b@a/", "http://c@a/", True),
    ],
)
def test_the_same_server_is_the_same_host_and_port_or_its_usual_tls_port(
    here: str, there: str, same: bool
) -> None:
    assert trusted(urlsplit(here), urlsplit(there)) is same


def test_another_server_gets_no_header_of_the_job_but_the_harmless_ones() -> None:
    hop = following(Hop("https://a/x", "PUT", KEYS, b"body"), 307, "https://evil.example/y", secret=False)
    assert (hop.url, hop.method, hop.data) == ("https://evil.example/y", "PUT", b"body")
    assert set(hop.headers) == {"Accept", "Content-Type"}


def test_the_same_server_gets_all_headers_again() -> None:
    hop = following(Hop("https://a/x/y", "GET", KEYS), 302, "../z?q=1", secret=False)
    assert (hop.url, hop.headers) == ("https://a/z?q=1", KEYS)


def test_what_is_left_behind_does_not_come_back_on_the_way_home() -> None:
    away = following(Hop("https://a/", "GET", KEYS), 302, "https://b/", secret=False)
    home = following(away, 302, "https://a/", secret=False)
    assert set(home.headers) == {"Accept", "Content-Type"}


def test_a_secret_in_the_body_goes_to_no_other_server() -> None:
    hop = Hop("https://a/", "POST", {}, b"token")
    with pytest.raises(ExecutionError, match=r"redirect to b would take a secret"):
        following(hop, 308, "https://b/", secret=True)
    assert following(hop, 308, "/there", secret=True).data == b"token"
    assert following(hop, 303, "https://b/", secret=True).data is None


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "DELETE", "DELETE"),
    ],
)
def test_the_status_decides_whether_the_method_stays(status: int, method: str, after: str) -> None:
    hop = following(Hop("http://a/", method, KEYS, b"x"), status, "/b", secret=False)
    assert hop.method == after
    assert (hop.data is None) == ("Content-Type" not in hop.headers)


def test_an_account_in_the_address_stays_with_its_server() -> None:
    hop = Hop("https://me:pw@a/x", "GET", {})
    assert following(hop, 302, "https://a/y", secret=False).url == "https://me:pw@a/y"
    assert following(hop, 302, "/y", secret=False).url == "https://me:pw@a/y"
    assert following(hop, 302, "https://b/y", secret=False).url == "https://b/y"


@pytest.mark.parametrize("location", ["ftp://a/", "file:///etc/passwd", "http://[::1", "javascript:1"])
def test_a_redirect_to_something_else_fails(location: str) -> None:
    with pytest.raises(ExecutionError, match="redirect leads to"):
        following(Hop("http://a/", "GET", {}), 302, location, secret=False)

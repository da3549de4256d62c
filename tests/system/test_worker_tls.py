"""A worker loads OpenSSL when somebody needs it, and not before."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.certificates import self_signed

from .conftest import House, eventually


class Webhook(HTTPServer):
    """Takes messages over TLS."""

    def __init__(self, certificate: Path) -> None:
        self.taken: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Take)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Webhook)
        self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    certificate, key = self_signed(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    return both


@pytest.fixture
def webhook(certificate: Path) -> Iterator[Webhook]:
    server = Webhook(certificate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def has_openssl(house: House) -> bool:
    maps = Path(f"/proc/{house.worker_pid}/maps").read_text()
    return "libssl" in maps or "libcrypto" in maps


def test_a_message_over_tls_brings_openssl_and_nothing_else_does(
    house: House, webhook: Webhook, certificate: Path
) -> None:
    house.environ["SSL_CERT_FILE"] = str(certificate)
    house.write(
        f'[notify.chat]\nkind = "webhook"\nurl = "https://127.0.0.1:{webhook.server_port}/"\n'
        '[job.fine]\ncommand = "true"\n[job.fails]\ncommand = "false"\nnotify = ["chat"]\n'
    )
    house.ok("start", "--detach")
    house.ok("run", "fine", "--wait")
    assert not has_openssl(house)
    house.run("run", "fails", "--wait")
    eventually(lambda: webhook.taken)
    assert b"fails" in webhook.taken[0]
    assert has_openssl(house)
    assert house.events("notify_failed") == []


def test_a_certificate_that_nobody_vouches_for_is_refused_by_a_worker_too(
    house: House, webhook: Webhook
) -> None:
    house.write(
        f'[notify.chat]\nkind = "webhook"\nurl = "https://127.0.0.1:{webhook.server_port}/"\n'
        '[job.fails]\ncommand = "false"\nnotify = ["chat"]\n'
    )
    house.ok("start", "--detach")
    house.run("run", "fails", "--wait")
    [failed, *_] = eventually(lambda: house.events("notify_failed"))
    assert "certificate" in failed["reason"].lower()
    assert webhook.taken == []

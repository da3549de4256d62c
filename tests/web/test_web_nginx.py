"""The example of a TLS reverse proxy, run by nginx itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.certificates import self_signed

EXAMPLE = Path(__file__).parents[2] / "etc" / "examples" / "nginx-echosched.conf"
NGINX = os.environ.get("ECHOSCHED_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (apt-get install nginx-light)"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine"),
]


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody has; both are held until both are known, so that they differ."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


@pytest.fixture
def proxied(instance, home, until):
    """The instance behind nginx; answers the https port and a TLS context that trusts it."""
    with open(home / "echosched.toml", "a") as file:
        file.write('\n[web]\nallowed_hosts = ["sched.example.org"]\n')
    instance.cli("start")
    instance.serve()
    certificate, key = self_signed(home, "DNS:sched.example.org")
    plain, secure = free_ports()
    text = EXAMPLE.read_text()
    for here, there in {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
        "    listen [::]:80;\n": "",
        "    listen [::]:443 ssl;\n": "",
        "/etc/letsencrypt/live/sched.example.org/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/sched.example.org/privkey.pem": str(key),
        "http://127.0.0.1:5000": instance.url,
    }.items():
        assert here in text, here
        text = text.replace(here, there)
    temporary = "".join(
        f"{name}_temp_path {home}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "site.conf").write_text(text)
    (home / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nerror_log {home}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {home}/site.conf;\n}}\n"
    )
    process = subprocess.Popen(
        [NGINX, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    )

    def listens() -> bool:
        assert process.poll() is None, (home / "error.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", secure), timeout=1):
            return True
        return False

    try:
        until(listens)
        yield plain, secure, ssl.create_default_context(cafile=str(certificate))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(secure: int, context: ssl.SSLContext, path: str, key: str, method: str = "GET") -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", secure), timeout=60)
    client = context.wrap_socket(raw, server_hostname="sched.example.org")
    head = f"{method} {path} HTTP/1.1\r\nHost: sched.example.org\r\nX-Dash-Key: {key}\r\nConnection: close\r\n\r\n"
    client.sendall(head.encode())
    return client


def test_the_example_passes_pages_calls_and_streams(proxied, instance):
    plain, secure, context = proxied
    key = instance.environ["DASHBOARD_KEY"]

    def answer(path: str) -> tuple[bytes, bytes]:
        with connect(secure, context, path, key) as client:
            head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
            return head, body

    head, body = answer("/dashboard")
    assert b" 200 " in head
    assert b"Strict-Transport-Security" in head
    assert b"script-src 'self'" in head
    assert b"<title>EchoSched</title>" in body
    head, body = answer("/api/automations/status")
    assert b" 200 " in head
    assert b'"running":true' in body

    # An event arrives while the stream stays open: nothing buffers it on the way.
    with connect(secure, context, "/api/events", key) as stream:
        heard = stream.recv(65536)
        assert b" 200 " in heard
        began = time.monotonic()
        run = instance.post("/api/jobs/hello/run")["run"]
        while b'"run_end"' not in heard:
            piece = stream.recv(65536)
            assert piece, heard
            heard += piece
        assert f'"run":{run}'.encode() in heard
        assert time.monotonic() - began < 30

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.build_opener(Stay).open(
            urllib.request.Request(
                f"http://127.0.0.1:{plain}/dashboard", headers={"Host": "sched.example.org"}
            ),
            timeout=60,
        )
    with told.value as moved:
        assert (moved.code, moved.headers["Location"]) == (301, "https://sched.example.org/dashboard")


def test_the_name_must_be_allowed(proxied, instance, home):
    _, secure, context = proxied
    instance.unserve()
    text = (home / "echosched.toml").read_text()
    (home / "echosched.toml").write_text(text.replace('allowed_hosts = ["sched.example.org"]', ""))
    instance.serve(int(instance.url.rsplit(":", 1)[1]))
    with connect(secure, context, "/api/jobs", instance.environ["DASHBOARD_KEY"]) as client:
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b" 403 " in head
    assert b"bad_host" in body
    assert json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["ok"] is False

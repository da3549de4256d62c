"""Hostile HTTP: bytes at random, requests bent out of shape, bodies that lie; over them a daemon and its web server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import time
import urllib.request
from pathlib import Path

from .conftest import House, eventually, free_port

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
KEY = "hostile-test-key"
PATIENCE_SECONDS = 30.0
CONFIG = """[job.quick]
schedule = "every 1s"
command = "true"
[job.idle]
schedule = "@yearly"
command = "sleep 0.1"
"""
# Nothing here stops the daemon: that would be an answer, not a failure.
TARGETS = [
    "GET /api/automations/status", "GET /api/jobs", "GET /api/jobs/idle", "POST /api/jobs/idle/run",
    "POST /api/jobs/idle/pause", "POST /api/jobs/idle/resume", "GET /api/runs?limit=5", "GET /api/runs/1",
    "GET /api/runs/1/output", "POST /api/runs/1/cancel", "GET /api/next?n=3", "GET /api/metrics-summary",
    "GET /metrics", "GET /healthz", "GET /dashboard", "GET /static/../../etc/passwd", "GET /openapi.json",
    "GET /api/timeline", "POST /api/self-heal",
]  # fmt: skip
NASTY = [
    b"", b"\0", b"%00", b"../" * 50, b"%2e%2e%2f" * 20, b"\xff\xfe", b"%ff%fe", b"'; DROP TABLE runs; --",
    b"-1", b"NaN", b"1e999", b"9" * 400, b"\r\nX-More: 1\r\n", b"\x7f\x1b[2J", "ünïcödé☃".encode(), b"A" * 9000,
    b"?" * 300, b"&a=" * 500,
]  # fmt: skip
BODIES = [
    b"", b"{", b"[]" * 10, b'{"args": ' * 3000, b"[" * 60_000, b'{"a": NaN}', b'{"job": null}', b"\xff" * 100,
    b'"' + b"x" * 70_000,
    json.dumps({"wait": "forever", "limit": -5, "state": ["no"], "job": {"a": 1}}).encode(),
]  # fmt: skip


def ask(port: int, path: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"X-Dash-Key": KEY})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.read()


def serves(port: int) -> bool:
    try:
        return ask(port, "/healthz")[0] == 200
    except OSError:
        return False


def hostile_request(chance: random.Random, port: int) -> bytes:
    """Return a request that is wrong in one to three ways, or no request at all."""
    if chance.random() < 0.15:
        return chance.randbytes(chance.choice([1, 10, 100, 5000]))
    method, _, path = chance.choice(TARGETS).encode().partition(b" ")
    headers = [b"Host: 127.0.0.1:%d" % port, b"X-Dash-Key: " + KEY.encode(), b"Connection: close"]
    body, version = b"", b"HTTP/1.1"
    for _ in range(chance.randint(1, 3)):
        nasty = chance.choice(NASTY)
        match chance.randrange(9):
            case 0:
                method = chance.choice(
                    [b"DELETE", b"PATCH", b"OPTIONS", b"HEAD", b"TRACE", b"GET\0", nasty[:40] or b"x"]
                )
            case 1:
                path += chance.choice([b"", b"/", b"?limit=", b"?job=", b"?since=", b"?wait="]) + nasty
            case 2:
                path = path.replace(b"idle", nasty).replace(b"/1", b"/" + nasty)
            case 3:
                headers[chance.randrange(2)] = chance.choice(
                    [b"Host: evil.example", b"Host: ", b"X-Dash-Key: " + nasty]
                )
            case 4:
                headers += [b"X-%d: " % n + nasty for n in range(chance.choice([1, 50, 300]))]
            case 5:
                body = chance.choice(BODIES)
                headers += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
            case 6:
                body = chance.choice(BODIES)
                headers.append(
                    b"Content-Length: " + chance.choice([b"-1", b"1", b"99999999999999", b"abc", nasty[:30]])
                )
            case 7:
                headers.append(
                    b"Transfer-Encoding: "
                    + chance.choice([b"chunked", b"chunked, gzip", b"chunked\r\nContent-Length: 4"])
                )
                body = chance.choice(
                    [b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffff\r\nx", b"zz\r\n\r\n", b"-1\r\n"]
                )
            case 8:
                version = chance.choice([b"HTTP/0.9", b"HTTP/9.9", b"", b"HTTP/1.1 x", b"http/1.1"])
    request = method + b" " + path + b" " + version + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
    return request[: chance.randrange(1, len(request))] if chance.random() < 0.1 else request


def send(port: int, request: bytes) -> bytes | None:
    """Return what is answered; ``None`` where the server neither answers nor hangs up.

    Who is not answered soon may have asked for an answer later: it then says that nothing more will come.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it has hung up on us
            connection.sendall(request)
        while True:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                if connection.gettimeout() == PATIENCE_SECONDS:
                    return None
                connection.settimeout(PATIENCE_SECONDS)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                continue
            except OSError:
                break
            if not chunk:
                break
            answer += chunk
        return answer


def test_hostile_http_is_answered_and_harms_nobody(house: House, tmp_path: Path) -> None:
    seed = int(os.environ.get("ECHOSCHED_SEED", time.time_ns() % 100_000))
    print(f"seed {seed}")
    chance, port = random.Random(seed), free_port()
    house.environ["DASHBOARD_KEY"] = KEY
    house.write(CONFIG)
    house.ok("start")
    worker = house.worker_pid
    with open(tmp_path / "web.err", "wb") as errors:
        web = house.popen("web", "--port", str(port), stdout=errors, stderr=errors)
    eventually(lambda: serves(port))
    statuses: dict[bytes, int] = {}
    for _ in range(4000 if DEEP else 250):
        request = hostile_request(chance, port)
        answer = send(port, request)
        assert answer is not None, ("no answer", request[:500])
        status = answer[9:12] if answer.startswith(b"HTTP/1.") else b""
        statuses[status] = statuses.get(status, 0) + 1
        assert not re.match(rb"HTTP/1\.[01] 500", answer), (request[:500], answer[:500])
        assert b"Traceback" not in answer
        assert b"root:" not in answer
    print({status.decode(): count for status, count in sorted(statuses.items())})
    assert {b"400", b"404"} <= set(statuses)
    assert web.poll() is None
    assert serves(port)
    assert json.loads(ask(port, "/api/automations/status")[1])["data"]["health"] == "ok"
    assert house.worker_pid == worker
    assert "Traceback" not in (tmp_path / "web.err").read_text()
    assert "Traceback" not in house.out
    states = {row["state"] for row in house.history("quick")}
    assert states <= {"succeeded", "running", "queued", "skipped", "missed"}

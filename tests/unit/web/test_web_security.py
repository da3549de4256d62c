"""Keys, host check, limits, uniform errors and hostile clients."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from echosched.errors import UsageError
from echosched.web import server as server_module
from echosched.web.guard import host_is_allowed
from echosched.web.keys import KeyGuard, is_loopback, load_key


class Clock:
    def __init__(self):
        self.at = 1000.0

    def monotonic(self):
        return self.at


# ── where the key comes from ──────────────────────────────────────────────────────────────────


def test_the_environment_beats_the_file(tmp_path):
    file = tmp_path / "web.key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert load_key({"DASHBOARD_KEY": "from-env"}, file).value == "from-env"
    found = load_key({"DASHBOARD_KEY": ""}, file)
    assert (found.value, found.origin) == ("from-file", "file")


def test_a_credential_of_systemd_is_the_key_unless_the_environment_has_one(tmp_path):
    credentials, file = tmp_path / "credentials", tmp_path / "web.key"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert load_key(environ, file).value == "from-file"  # there is no such credential
    (credentials / "dashboard-key").write_text("from-systemd\n")
    (credentials / "dashboard-key").chmod(0o440)  # as systemd makes them
    assert load_key(environ, file).value == "from-systemd"
    assert load_key(environ, file, "0.0.0.0").value == "from-systemd"
    assert load_key({**environ, "DASHBOARD_KEY": "from-env"}, file).value == "from-env"


def test_a_key_is_made_once_and_kept_private(tmp_path):
    file = tmp_path / "state" / "web.key"
    made = load_key({}, file)
    again = load_key({}, file)
    assert made.origin == "made"
    assert len(made.value) >= 40
    assert (again.value, again.origin) == (made.value, "file")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["web.key"]
    assert made.value not in repr(made)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("", 0o600, "empty"),
        ("key", 0o644, "everybody"),
        ("two words", 0o600, "printable"),
        ("schlüssel", 0o600, "ASCII"),
    ],
)
def test_a_bad_key_file_is_refused_with_its_reason(tmp_path, content, mode, words):
    file = tmp_path / "web.key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(UsageError, match=words):
        load_key({}, file)


def test_a_key_file_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "target").write_text("key")
    (tmp_path / "web.key").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="cannot read"):
        load_key({}, tmp_path / "web.key")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.8.8.8", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
    ],
)
def test_only_loopback_may_be_served_with_a_key_just_made(tmp_path, host, loopback):
    assert is_loopback(host) is loopback
    file = tmp_path / "web.key"
    if loopback:
        assert load_key({}, file, host).origin == "made"
    else:
        with pytest.raises(UsageError, match="without a key"):
            load_key({}, file, host)
        assert not file.exists()
    assert load_key({"DASHBOARD_KEY": "chosen"}, file, host).value == "chosen"


# ── judging keys ──────────────────────────────────────────────────────────────────────────────


def test_wrong_keys_are_slowed_down_per_client_and_the_right_one_never():
    clock = Clock()
    guard = KeyGuard("right", clock, burst=3, refill_seconds=10)
    assert [guard.wrong("a") for _ in range(3)] == [0, 0, 0]
    assert guard.wrong("a") == pytest.approx(10)
    assert guard.wrong("b") == 0
    assert guard.right("right")
    assert not guard.right("wrong")
    assert not guard.right("righ\udcff")
    clock.at += 1000
    assert guard.wrong("a") == 0


def test_a_crowd_of_wrong_clients_does_not_grow_the_guard():
    guard = KeyGuard("right", Clock())
    for number in range(5000):
        guard.wrong(f"10.0.{number}")
    assert len(guard._debts) <= 1024


async def test_no_key_is_always_401_and_wrong_ones_become_429(browser, key):
    for _ in range(20):
        status, answer = await browser.get("/api/jobs", headers={"X-Dash-Key": None})
        assert (status, answer["error"]["code"]) == (401, "unauthorized")
    seen = [(await browser.get("/api/jobs", headers={"X-Dash-Key": f"wrong{n}"}))[0] for n in range(10)]
    assert seen == [401] * 5 + [429] * 5
    assert (await browser.get("/api/jobs"))[0] == 200
    assert (await browser.get("/api/jobs", headers={"X-Dash-Key": None, "Authorization": f"Bearer {key}"}))[
        0
    ] == 200


async def test_429_says_how_long_to_wait(browser, server):
    for n in range(6):
        async with browser.session.get(
            server.url + "/api/jobs", headers={"X-Dash-Key": f"no{n}"}
        ) as response:
            last = response
    assert last.status == 429
    assert int(last.headers["Retry-After"]) >= 1


async def test_everything_else_needs_the_key(browser, server):
    paths = [
        "/api/automations/status",
        "/api/jobs",
        "/metrics",
        "/openapi.json",
        "/api/events",
        "/nowhere",
        "/api/journal",
    ]
    for path in paths:
        status, answer = await browser.get(path, headers={"X-Dash-Key": None})
        assert (status, answer["ok"]) == (401, False), path
    for path in ("/healthz", "/readyz"):
        assert (await browser.get(path, headers={"X-Dash-Key": None}))[0] == 200


# ── hosts ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("app.localhost:5000", True),
        ("[::1]:5000", True),
        ("192.168.1.5", True),
        ("sched.example:443", True),
        ("SCHED.EXAMPLE.", True),
        ("evil.example", False),
        ("sched.example.evil.org", False),
        ("127.0.0.1.evil.org", False),
        ("localhost.evil.org", False),
        ("", False),
        (None, False),
        ("a b", False),
        ("host:99999999", False),
    ],
)
def test_host_names_that_an_attacker_could_rebind_are_refused(header, allowed):
    assert host_is_allowed(header, frozenset({"sched.example"})) is allowed


async def test_a_foreign_host_name_is_refused_before_the_key_is_judged(browser):
    status, answer = await browser.get("/api/jobs", headers={"Host": "evil.example"})
    assert (status, answer["error"]["code"]) == (403, "bad_host")


# ── uniform errors and limits ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs?limit=0",
        "/api/runs?limit=x",
        "/api/runs?limit=1_0",
        "/api/runs?state=lost",
        "/api/runs?since=yesterday",
        "/api/runs?limit=1&limit=2",
        "/api/next?n=99999",
        "/api/runs/0",
        "/api/runs/99999999999999999999",
        "/api/journal?n=-1",
    ],
)
async def test_wrong_parameters_are_400_in_json(browser, path):
    status, answer = await browser.get(path)
    assert (status, answer["ok"], answer["error"]["code"]) == (400, False, "usage")


@pytest.mark.parametrize("body", [b"{", b"[1]", b" ", b"\xff\xfe", b'"x"', b'{"wait": {}}', b"[" * 100_000])
async def test_wrong_bodies_are_400_in_json(browser, body):
    status, answer = await browser.post("/api/jobs/backup/run", data=body)
    assert (status, answer["error"]["code"]) == (400, "usage")


async def test_unknown_addresses_and_methods_are_json(browser, server, key):
    status, answer = await browser.get("/nowhere")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    async with browser.session.delete(server.url + "/api/jobs", headers={"X-Dash-Key": key}) as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_a_large_body_is_413_announced_or_not(browser):
    status, answer = await browser.post("/api/jobs/backup/run", data=io.BytesIO(b" " * (1024 * 1024 + 1)))
    assert (status, answer["error"]["code"]) == (413, "too_large")

    async def pieces():
        for _ in range(20):
            yield b" " * 65536

    status, answer = await browser.post("/api/jobs/backup/run", data=pieces())
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert (await browser.post("/api/jobs/backup/run", data=b"{" + b" " * (1024 * 1024 - 2) + b"}"))[0] == 200


async def test_a_bug_is_500_in_json_without_its_traceback(browser, backend, caplog):
    def broken():
        raise RuntimeError("secret detail")

    backend.do_jobs = broken
    status, answer = await browser.get("/api/jobs")
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "secret" not in json.dumps(answer)
    assert "secret detail" in caplog.text


async def test_the_page_runs_no_inline_code_and_no_foreign_code(browser, server):
    async with browser.session.get(server.url + "/dashboard") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in text
    assert " style=" not in text
    assert " on" + "click" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


async def test_files_outside_the_page_are_not_served(browser, server):
    for path in (
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/server.py",
    ):
        status, _ = await browser.get(path)
        assert status == 404, path


async def raw(server, data: bytes, *, eof: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        await writer.drain()
        if eof:
            writer.write_eof()
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def test_what_is_not_http_is_answered_in_json(server):
    for data in (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA" + b"a" * 20000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ):
        answer = await raw(server, data)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[0]
        assert json.loads(body)["error"]["code"] == "bad_request"


async def test_a_client_that_never_finishes_its_head_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.2)
    assert await raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ") == b""


async def test_half_closed_clients_leave_nothing_behind(server, browser):
    for _ in range(50):
        await raw(server, b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n", eof=True)
    assert (await browser.get("/api/jobs"))[0] == 200


async def test_more_connections_than_the_limit_are_refused_and_the_earlier_ones_served(
    server, browser, monkeypatch
):
    assert (await browser.get("/api/jobs"))[0] == 200
    monkeypatch.setattr(server_module, "CONNECTIONS_AT_ONCE", 4)
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
    async with asyncio.timeout(30):
        assert await idle[-1][0].read() == b""
    assert (await browser.get("/api/jobs"))[0] == 200
    for _, writer in idle:
        writer.close()


def test_a_home_that_cannot_be_made_is_no_place_for_a_key():
    with pytest.raises(
        UsageError, match=r"^/proc/none: no place for the web key: No such file or directory$"
    ):
        load_key({}, Path("/proc/none/web.key"))

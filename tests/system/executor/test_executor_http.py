"""HTTP calls against servers that answer, lie, hang, drip and drown."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.errors import ExecutionError
from echosched.model import HttpAction, Policy, State
from tests.certificates import self_signed

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"fine\n", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Start servers that read one request (head and body) and then do what the test says."""
    servers: list[asyncio.Server] = []
    tasks: list[asyncio.Task[None]] = []

    async def start(handler: Handler | bytes, tls: ssl.SSLContext | None = None) -> str:
        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            try:
                request = await reader.readuntil(b"\r\n\r\n")
                for line in request.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        request += await reader.readexactly(int(line.split(b":")[1]))
                if isinstance(handler, bytes):
                    writer.write(handler)
                else:
                    await handler(request, writer)
                await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await writer.wait_closed()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        scheme = "http" if tls is None else "https"
        return f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Serve = Callable[..., Awaitable[str]]


async def test_an_answer_of_200_succeeds_and_is_kept_as_output(rig: Rig, serve: Serve) -> None:
    url = await serve(answer(b"hello\n", "200 OK", "X-Thing: 7", "Set-Cookie: session=hush"))
    result, output = await rig.run(HttpAction(url))
    assert (result.state, result.exit_code, result.error) == (State.SUCCEEDED, None, None)
    assert output.splitlines() == [
        "HTTP/1.1 200 OK",
        "Content-Length: 6",
        "X-Thing: 7",
        "Set-Cookie: ***",
        "",
        "hello",
    ]
    assert result.output_bytes == len(output)


@pytest.mark.parametrize(
    ("status", "expect", "state"),
    [
        ("204 No Content", (), State.SUCCEEDED),
        ("404 Not Found", (), State.FAILED),
        ("500 Oops", (), State.FAILED),
        ("404 Not Found", (404, 410), State.SUCCEEDED),
        ("200 OK", (201,), State.FAILED),
    ],
)
async def test_the_status_decides(
    rig: Rig, serve: Serve, status: str, expect: tuple[int, ...], state: State
) -> None:
    result, _ = await rig.run(HttpAction(await serve(answer(b"", status)), expect=expect))
    assert result.state is state
    if state is State.FAILED:
        assert result.error is not None
        assert result.error.startswith(f"HTTP status {status} (expected {'201' if expect else '2xx'}")


async def test_the_body_can_decide_too(rig: Rig, serve: Serve) -> None:
    url = await serve(answer(b'{"status": "degraded"}'))
    good, _ = await rig.run(HttpAction(url, expect_body=r'"status":\s*"\w+"'))
    bad, _ = await rig.run(HttpAction(url, expect_body=r'"status":\s*"ok"'), output=False)
    assert good.state is State.SUCCEEDED
    assert (bad.state, bad.error) == (
        State.FAILED,
        'HTTP status 200 OK, but the body does not match \'"status":\\\\s*"ok"\'',
    )


async def test_the_body_is_matched_as_text(rig: Rig, serve: Serve) -> None:
    url = await serve(answer("Größe: ünbekannt\n".encode()))
    for pattern, state in (
        (r"^Gr\w{2}e", State.SUCCEEDED),
        ("(?i)ÜNBEKANNT$", State.SUCCEEDED),
        ("x", State.FAILED),
    ):
        assert (await rig.run(HttpAction(url, expect_body=pattern)))[0].state is state


async def test_a_pattern_that_is_none_fails_the_run(rig: Rig, serve: Serve) -> None:
    result, _ = await rig.run(HttpAction(await serve(answer()), expect_body="("))
    assert result.state is State.FAILED


async def test_a_name_server_that_hangs_holds_up_nobody_else(
    rig: Rig, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host == "hanging.invalid":
            release.wait(30)
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    policy = Policy(timeout=timedelta(seconds=3))
    hanging = asyncio.gather(
        *(rig.run(HttpAction("http://hanging.invalid/"), policy=policy) for _ in range(50))
    )
    await asyncio.sleep(0.2)
    url = (await serve(answer())).replace("127.0.0.1", "localhost")
    result, _ = await rig.run(HttpAction(url))
    assert not hanging.done()
    assert result.state is State.SUCCEEDED
    assert {each.state for each, _ in await hanging} == {State.TIMED_OUT}
    release.set()


async def test_method_headers_and_body_are_sent(rig: Rig, serve: Serve) -> None:
    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(request))

    url = await serve(echo)
    _, output = await rig.run(HttpAction(f"{url}/a?b=c", "PUT", (("X-One", "1"),), body="déjà"))
    assert (
        "PUT /a?b=c HTTP/1.1\r\n" in output.replace("\n", "\r\n").replace("\r\r", "\r")
        or "PUT /a?b=c" in output
    )
    assert "X-One: 1" in output
    assert output.endswith("déjà")
    _, output = await rig.run(HttpAction(url, "POST", json='{"a": 1}'))
    assert "Content-Type: application/json" in output
    assert output.endswith('{"a": 1}')


async def test_redirects_are_not_followed_unless_wanted(rig: Rig, serve: Serve) -> None:
    there = await serve(answer(b"arrived"))
    here = await serve(answer(b"", "302 Found", f"Location: {there}/"))
    stayed, _ = await rig.run(HttpAction(here))
    assert (stayed.state, stayed.error) == (State.FAILED, "HTTP status 302 Found (expected 2xx)")
    result, output = await rig.run(HttpAction(here, follow_redirects=True))
    assert result.state is State.SUCCEEDED
    assert output.endswith("arrived")


async def test_redirects_without_end_fail(rig: Rig, serve: Serve) -> None:
    async def around(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", "302 Found", "Location: /again"))

    result, _ = await rig.run(HttpAction(await serve(around), follow_redirects=True))
    assert (result.state, result.error) == (State.FAILED, "HTTP: too many redirects")


async def hang(request: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(100)


async def drip(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_head(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_a_redirect_to_another_server_takes_no_keys_along(rigs: Rigs, serve: Serve) -> None:
    seen: list[bytes] = []

    async def note(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(answer(b"arrived"))

    there = await serve(note)
    rig = rigs(resolve=lambda text: text.replace("${env:KEY}", "t0p/secret"))
    headers = (("X-Dash-Key", "${env:KEY}"), ("Authorization", "Bearer x"), ("Accept", "text/plain"))

    async def move(status: str, method: str, **options: Any) -> Any:
        here = await serve(answer(b"", status, f"Location: {there}/"))
        action = HttpAction(here, method, headers, follow_redirects=True, **options)
        return (await rig.run(action))[0]

    assert (await move("302 Found", "GET")).state is State.SUCCEEDED
    assert (await move("307 Again", "POST", body="plain")).state is State.SUCCEEDED
    refused = await move("307 Again", "POST", body="${env:KEY}")
    assert refused.state is State.FAILED
    assert "would take a secret in the body to another server" in (refused.error or "")
    assert len(seen) == 2
    for request in seen:
        assert b"x-dash-key" not in request.lower()
        assert b"bearer" not in request.lower()
        assert b"text/plain" in request
    assert seen[1].endswith(b"plain")


async def test_a_server_without_tls_is_the_reason(rig: Rig, serve: Serve) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer(b"", "400 Bad Request"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result, _ = await rig.run(HttpAction(f"https://127.0.0.1:{port}/"))
    server.close()
    await server.wait_closed()
    assert result.error == (
        f"HTTP: 127.0.0.1:{port}: the server does not speak TLS there (http:// instead of https://?)"
    )


@pytest.mark.parametrize("handler", [hang, drip, drip_head])
async def test_a_server_that_takes_for_ever_times_out(rig: Rig, serve: Serve, handler: Handler) -> None:
    begun = time.monotonic()
    result, output = await rig.run(
        HttpAction(await serve(handler)), policy=Policy(timeout=timedelta(seconds=0.5))
    )
    assert (result.state, result.error) == (State.TIMED_OUT, "timed out after 0.5 s")
    assert time.monotonic() - begun < 20
    if handler is drip:
        assert output.endswith("....")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"HTTP/9.9 huh\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_makes_no_sense_fails_with_a_reason(
    rig: Rig, serve: Serve, garbage: bytes
) -> None:
    result, _ = await rig.run(HttpAction(await serve(garbage)), policy=Policy(timeout=timedelta(seconds=10)))
    assert result.state is State.FAILED
    assert result.error is not None
    assert result.error.startswith("HTTP: ")


async def test_an_answer_that_breaks_off_fails(rig: Rig, serve: Serve) -> None:
    result, output = await rig.run(
        HttpAction(await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"))
    )
    assert result.state is State.FAILED
    assert result.error is not None
    assert result.error.startswith("HTTP: the answer broke off")
    assert output.endswith("half")


async def test_a_large_answer_is_read_up_to_the_limit_only(rig: Rig, serve: Serve) -> None:
    sent = 0

    async def flood(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    result, output = await rig.run(HttpAction(await serve(flood)), policy=Policy(output_limit=100_000))
    assert result.state is State.SUCCEEDED
    assert result.output_bytes == len(output) == 100_000
    assert sent < 50_000_000


async def test_a_packed_answer_is_never_unpacked(rig: Rig, serve: Serve) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    url = await serve(answer(bomb, "200 OK", "Content-Encoding: gzip"))
    result, _ = await rig.run(HttpAction(url))
    assert result.state is State.SUCCEEDED
    assert result.output_bytes is not None
    assert result.output_bytes < len(bomb) + 200


async def test_a_name_that_does_not_resolve_is_the_reason(rig: Rig) -> None:
    result, _ = await rig.run(HttpAction("http://no-such-host.invalid/"))
    assert result.state is State.FAILED
    assert result.error is not None
    assert result.error.startswith("HTTP: the name 'no-such-host.invalid' does not resolve")


async def test_a_refused_connection_is_the_reason(rig: Rig) -> None:
    result, _ = await rig.run(HttpAction("http://127.0.0.1:1/"))
    assert (result.state, result.error) == (State.FAILED, "HTTP: 127.0.0.1:1: Connection refused")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://example.org/", "http://", "http:///path", "http://[::1"]
)
async def test_an_address_that_is_none_is_refused(rig: Rig, url: str) -> None:
    with pytest.raises(ExecutionError, match="not a complete"):
        await rig.run(HttpAction(url))


async def test_secrets_are_sent_but_never_shown(rigs: Rigs, serve: Serve) -> None:
    seen = b""

    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = request
        writer.write(b"HTTP/1.1 403 No t0p/secret here\r\nX-Echo: t0p/secret\r\n\r\n")
        for byte in request + b" t0p%2Fsecret ":
            writer.write(bytes([byte]))
            await writer.drain()

    rig = rigs(resolve=lambda text: text.replace("${env:KEY}", "t0p/secret"))
    action = HttpAction(
        await serve(echo) + "/?key=${env:KEY}", "POST", (("X-Key", "${env:KEY}"),), body="key=${env:KEY}"
    )
    result, output = await rig.run(action)
    assert seen.count(b"t0p/secret") == 3
    assert result.error == "HTTP status 403 No *** here (expected 2xx)"
    assert "t0p" not in output
    assert output.count("***") >= 4


async def test_an_unset_secret_fails_before_anything_is_sent(rigs: Rigs) -> None:
    def resolve(text: str) -> str:
        raise ExecutionError("${env:KEY}: not set")

    rig = rigs(resolve=resolve)
    attempt = rig.attempt(HttpAction("http://127.0.0.1:1/${env:KEY}"))
    with pytest.raises(ExecutionError, match="not set"):
        await rig.executor.start(attempt)
    assert attempt.output_path is not None
    assert not os.path.exists(attempt.output_path)


async def test_a_call_can_be_cancelled(rig: Rig, serve: Serve) -> None:
    execution = await rig.executor.start(rig.attempt(HttpAction(await serve(hang))))
    assert execution.process is None
    await asyncio.sleep(0.1)
    execution.cancel("stopped", state=State.CANCELLED, kill_after=timedelta(seconds=5))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.error) == (State.CANCELLED, "stopped")
    execution.settle()


async def test_calls_share_nothing(rig: Rig, serve: Serve) -> None:
    requests: list[bytes] = []

    async def note(request: bytes, writer: asyncio.StreamWriter) -> None:
        requests.append(request)
        writer.write(answer(b"", "200 OK", "Set-Cookie: a=b"))

    url = await serve(note)
    await rig.run(HttpAction(url))
    await rig.run(HttpAction(url))
    assert len(requests) == 2
    assert not any(b"cookie" in request.lower() for request in requests)


async def test_certificates_are_checked(rig: Rig, serve: Serve, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the refused handshake
    url = await serve(answer(), context)
    refused, _ = await rig.run(HttpAction(url))
    trusted, _ = await rig.run(HttpAction(url, ca_file=str(cert)))
    unchecked, _ = await rig.run(HttpAction(url, verify=False))
    with pytest.raises(ExecutionError, match="ca_file /no/such-file"):
        await rig.run(HttpAction(url, ca_file="/no/such-file"))
    assert refused.state is State.FAILED
    assert refused.error is not None
    assert "certificate is not trusted" in refused.error
    assert trusted.state is unchecked.state is State.SUCCEEDED


async def test_client_certificates_are_shown_to_the_server(rig: Rig, serve: Serve, tmp_path: Path) -> None:
    cert, key = map(str, self_signed(tmp_path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cert)
    url = await serve(answer(), context)
    result, _ = await rig.run(HttpAction(url, ca_file=cert, cert_file=cert, key_file=key))
    assert result.state is State.SUCCEEDED
    with pytest.raises(ExecutionError, match="cert_file"):
        await rig.run(HttpAction(url, ca_file=cert, cert_file=key, key_file=cert))


async def test_the_loop_goes_on_while_servers_hang(rig: Rig, serve: Serve) -> None:
    taken = 0

    async def take(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        await hang(request, writer)

    # The servers live in the same loop: were it to wait for one of them, it would take no other call.
    url = await serve(take)
    executions = [await rig.executor.start(rig.attempt(HttpAction(url))) for _ in range(100)]
    await rig.until(lambda: taken == 100)
    for execution in executions:
        execution.cancel("enough", state=State.TIMED_OUT, kill_after=timedelta(seconds=5))
    results = await asyncio.gather(*(asyncio.wait_for(each.wait(), 60) for each in executions))
    assert {result.state for result in results} == {State.TIMED_OUT}

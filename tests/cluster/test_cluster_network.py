"""The ways that tests cut: what is cut is silent, what is joined goes on where it was."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from .network import Proxy, Way, Wire, wires_are_possible

# What stands on the far side: asks once a second's tenth, prints what came back.
ASKER = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
for word in sys.stdin:
    peer.sendall(word.encode())
    print(peer.recv(100).decode(), end="", flush=True)
"""


@contextlib.contextmanager
def echo(host: str, port: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Answer every line with itself; give the port and the lines that arrived."""
    heard: list[str] = []
    with socket.create_server((host, port)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                while data := peer.recv(100):
                    heard.append(data.decode())
                    peer.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(10)


@contextlib.contextmanager
def asker(way: Way) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*way.prefix, sys.executable, "-c", ASKER, way.address[0], str(way.address[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        try:
            yield child
            child.stdin.close()
            child.wait(30)
        finally:
            child.kill()


def ask(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdin is not None
    child.stdin.write(f"{word}\n")
    child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def silent(child: subprocess.Popen[str], seconds: float = 1.0) -> bool:
    import select

    assert child.stdout is not None
    return not select.select([child.stdout], [], [], seconds)[0]


@pytest.fixture(params=["wire", "proxy"])
def way(request: pytest.FixtureRequest) -> Iterator[tuple[Way, list[str]]]:
    if request.param == "wire":
        if not wires_are_possible():
            pytest.skip("network namespaces need root and iproute2")
        wire = Wire(0)
        try:
            with echo(wire.here) as (port, heard):
                wire.address = wire.here, port
                yield wire, heard
        finally:
            wire.remove()
        return
    with echo("127.0.0.1") as (port, heard):
        proxy = Proxy(("127.0.0.1", port))
        try:
            yield proxy, heard
        finally:
            proxy.remove()


def test_a_cut_is_silent_and_a_joined_way_goes_on(way: tuple[Way, list[str]]) -> None:
    path, heard = way
    with asker(path) as child:
        ask(child, "one")
        assert answer(child) == "one"
        path.cut()
        ask(child, "two")
        assert silent(child)
        assert heard == ["one\n"]
        path.join()
        assert answer(child) == "two"


def test_questions_may_arrive_while_answers_are_lost(way: tuple[Way, list[str]]) -> None:
    path, heard = way
    with asker(path) as child:
        ask(child, "one")
        assert answer(child) == "one"
        path.cut(answers_only=True)
        ask(child, "two")
        deadline = time.monotonic() + 10
        while len(heard) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert heard == ["one\n", "two\n"]
        assert silent(child)
        path.join()
        assert answer(child) == "two"

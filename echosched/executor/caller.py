"""The process that makes HTTP calls: it imports what they need once, and forks for each.

Run as a file by :mod:`~echosched.executor.switchboard`, with the line to its worker on descriptor 0. An order
is a length (4 bytes) and JSON; the child that takes it on replies with one JSON line, its identity, as soon
as it has made the output file, and makes the call whether or not anybody is left to listen.

Single-threaded, so that a fork copies nothing half-done. SIGCHLD is ignored: what became of a call is
told by its answer (:mod:`~echosched.executor.answer`), not by an exit code. With its worker this process
ends; its children go on.
"""

import asyncio
import contextlib
import ctypes
import encodings.idna  # noqa: F401  (looked for by name at the first call otherwise)
import gc
import json
import os
import signal
import socket
import sys

if not __package__:
    _root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if _root not in sys.path:
        sys.path.insert(0, _root)

from echosched.errors import ExecutionError
from echosched.executor import answer, output, proc
from echosched.executor.exchange import Exchange, Request, open_session
from echosched.executor.secrets import Redactor
from echosched.model import HttpAction, Result, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARK = "ECHOSCHED_MARK"
ROOM = 96
"""Bytes that the environment keeps free for the mark of a child: what /proc shows is what we began with."""


def main() -> int:
    """Take orders until the line ends."""
    line = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    try:
        import aiohttp  # noqa: F401  (the point of this process)
    except ImportError as err:
        _say(line, {"failed": f"aiohttp cannot be imported: {err}"})
        return answer.EX_FAILED
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    worker, mark = os.getppid(), _mark_address()
    gc.collect()
    gc.freeze()  # what was imported stays where it is: a child that collected garbage would copy all of it
    while (order := _receive(line)) is not None:
        # Orders that nobody waits for any more are left to the next worker: it looks for what began at this
        # very moment.
        if os.getppid() != worker:
            break
        try:
            pid = os.fork()
        except OSError as err:
            _say(line, {"id": order["id"], "error": f"no new process: {err.strerror}"})
            continue
        if pid == 0:
            code = answer.EX_FAILED
            try:
                code = _carry_out(order, line, mark)
            finally:
                os._exit(code)
    return 0


def _receive(line: socket.socket) -> "Any":
    head = _exactly(line, 4)
    body = None if head is None else _exactly(line, int.from_bytes(head, "big"))
    return None if body is None else json.loads(body)


def _exactly(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            more = line.recv(min(size - len(data), 1 << 20))
        except ConnectionError:
            return None
        if not more:
            return None
        data += more
    return bytes(data)


def _say(line: socket.socket, document: "dict[str, Any]") -> None:
    # A worker that is gone, or about to go, changes nothing for a call.
    with contextlib.suppress(OSError):
        line.sendall(json.dumps(document).encode("ascii") + b"\n")


def _mark_address() -> int | None:
    """Return where the kernel reads this process's mark (and its children's), ``None`` if that is not known."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address: int | None = getenv(MARK.encode())
    return address if len(os.environ.get(MARK, "")) == ROOM else None


# ── in a child ────────────────────────────────────────────────────────────────────────────────────


def _carry_out(order: "dict[str, Any]", line: socket.socket, mark: int | None) -> int:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # First the mark, then the file: whoever finds the file finds this process, or its answer.
    value = order["mark"].encode()
    if mark is not None and len(value) <= ROOM:
        ctypes.memmove(mark, value.ljust(ROOM, b"\0"), ROOM)
    me = os.getpid()
    try:
        descriptor = output.create(order["output"])
    except ExecutionError as err:
        _say(line, {"id": order["id"], "error": str(err), "kind": err.code})
        return answer.EX_BARRED
    _say(line, {"id": order["id"], "pid": me, "ticks": proc.start_ticks(me)})
    line.close()
    redactor = Redactor(str)
    redactor.know(order["secrets"])
    if not order["keep"]:
        os.close(descriptor)
    try:
        result = asyncio.run(_call(order, redactor, descriptor if order["keep"] else None))
    except Exception as err:  # noqa: BLE001  (the boundary around an attempt)
        result = Result(State.FAILED, error=redactor.text(f"HTTP: {type(err).__name__}: {err}"))
    answer.write(order["output"], result)
    return 0 if result.state is State.SUCCEEDED else answer.EX_FAILED


async def _call(order: "dict[str, Any]", redactor: Redactor, descriptor: int | None) -> Result:
    given = order["action"]
    action = HttpAction(
        **{
            **given,
            "headers": tuple((name, value) for name, value in given["headers"]),
            "expect": tuple(given["expect"]),
        }
    )
    try:
        request = Request(action)
    except ExecutionError as err:
        return Result(State.FAILED, error=redactor.text(str(err)))
    async with open_session() as session:
        return await Exchange(session, request, redactor, descriptor, order["limit"]).run()


if __name__ == "__main__":
    sys.exit(main())

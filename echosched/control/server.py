"""The worker's end of the control socket. A slow, silent or hostile client costs the scheduler nothing."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

from echosched.control import protocol
from echosched.errors import EX_PRIVILEGE, DaemonError, EchoschedError, PermissionRefused, UsageError
from echosched.operations import Operations

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
"""A connection that asks nothing for so long is closed."""

WRITE_SECONDS = 30.0
"""A client that does not take its answer for so long is dropped."""

MAX_CONNECTIONS = 256

_UCRED = struct.Struct("@iII")  # pid, uid, gid of SO_PEERCRED


class ControlServer:
    """Serves :class:`~echosched.operations.Operations` on a Unix socket, mode 0600 (0660 with *group*)."""

    def __init__(self, operations: Operations, path: str, *, group: int | None = None) -> None:
        self._operations = operations
        self._path = path
        self._group = group
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The caller holds the daemon's lock, so what lies at the path is a left-over.

        Raises ``DaemonError`` where there can be no socket, or none of that group.
        """
        try:
            listener = self._listen()
        except OSError as error:
            raise DaemonError(
                f"{self._path}: cannot listen there: {error.strerror or error} (give another path with --socket)"
            ) from error
        if self._group is not None:
            try:
                os.chown(self._path, -1, self._group)
            except PermissionError:
                raise PermissionRefused(
                    f"daemon.control_group: the socket's owner (user id {os.geteuid()}) is no member of group id"
                    f" {self._group}, so {self._path} cannot be given to it (make it a member)",
                    exit_code=EX_PRIVILEGE,
                ) from None
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=protocol.MAX_LINE)

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        # The mode must be right from the first moment: bind under a umask, on the loop's only thread.
        previous = os.umask(0o177 if self._group is None else 0o117)
        try:
            listener.bind(self._path)
        finally:
            os.umask(previous)
        return listener

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            self._admit(writer.get_extra_info("socket"))
            await self._converse(reader, writer)
        except PermissionRefused as error:
            writer.write(protocol.encode(protocol.failure(error)))
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # gone, too slow, or the server closes: nobody is left to be told
        finally:
            self._connections.discard(task)
            writer.close()

    def _admit(self, sock: socket.socket) -> None:
        if not hasattr(socket, "SO_PEERCRED"):
            return  # elsewhere than on Linux the socket's mode is the guard
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, gid = _UCRED.unpack(raw)
        if uid in (0, os.geteuid()) or (self._group is not None and _in_group(uid, gid, self._group)):
            return
        raise PermissionRefused(
            f"control socket: uid {uid} may not control this daemon (daemon.control_group)"
        )

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE_SECONDS)
            except ValueError:
                await _send(
                    writer, protocol.failure(UsageError("control request: the line is longer than 1 MiB"))
                )
                return
            if not line.endswith(b"\n"):
                return
            await self._answer(line, writer)

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = protocol.decode(line)
            outcome = self._call(request)
            if isinstance(outcome, AsyncIterator):
                async with contextlib.aclosing(outcome) as stream:  # type: ignore[type-var]
                    async for item in stream:
                        await _send(writer, {"ok": True, "data": item, "more": True})
                data: Any = None
            else:
                data = await outcome
            await _send(writer, {"ok": True, "data": data})
        except (ConnectionError, TimeoutError):
            raise
        except EchoschedError as error:
            await _send(writer, protocol.failure(error))
        except Exception as error:
            log.exception("control request failed")
            await _send(writer, protocol.failure(error))

    def _call(self, request: dict[str, object]) -> Any:
        op, args = request.get("op"), request.get("args", {})
        if not isinstance(op, str) or not isinstance(args, dict):
            raise UsageError("control request: needs an op (text) and args (an object)")
        method = self._operations.find(op)
        _check(op, inspect.signature(method), args)
        return method(**args)


def _check(op: str, signature: inspect.Signature, args: dict[str, Any]) -> None:
    """Hold *args*, which anybody may have sent, against what the operation declares."""
    try:
        signature.bind(**args)
    except TypeError as error:
        raise UsageError(f"{op}: {error}") from None
    for name, value in args.items():
        wanted = str(signature.parameters[name].annotation)
        if not _FITS[wanted](value):
            raise UsageError(f"{op}: {name}: {value!r:.60} is not {_WORDS.get(wanted, wanted)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FITS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": _is_number,
    "int | None": lambda value: value is None or _is_number(value),
    "float | None": lambda value: value is None or _is_number(value) or isinstance(value, float),
    "bool": lambda value: isinstance(value, bool),
    "Sequence[str]": _is_texts,
}
_WORDS = {
    "str": "text",
    "str | None": "text",
    "int": "a whole number",
    "int | None": "a whole number",
    "float | None": "a number",
    "bool": "true or false",
    "Sequence[str]": "a list of texts",
}


def _in_group(uid: int, gid: int, wanted: int) -> bool:
    import grp
    import pwd

    if gid == wanted:
        return True
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name in grp.getgrgid(wanted).gr_mem
    return False


async def _send(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(protocol.encode(document))
    await asyncio.wait_for(writer.drain(), WRITE_SECONDS)

"""Talking to a daemon from an asyncio program (the web server)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from echosched.control import protocol
from echosched.errors import NotRunning, PermissionRefused, Unreachable

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes an answer line may have (a long history)."""


class AsyncControlClient:
    """Opens a connection for each call, so that calls run side by side. *timeout* in seconds."""

    def __init__(self, path: str, *, timeout: float | None = 30.0) -> None:
        self.path = path
        self._timeout = timeout

    async def call(self, op: str, **args: Any) -> Any:
        """Carry out *op* and return its data; raises as :meth:`ControlClient.call` does."""
        try:
            async with asyncio.timeout(self._timeout), self._connected() as (reader, writer):
                writer.write(protocol.encode({"op": op, "args": args}))
                answer = await self._read(reader)
        except TimeoutError:
            raise Unreachable(f"{self.path}: no answer within {self._timeout:g} s") from None
        if not answer.get("ok"):
            raise protocol.revive(answer)
        return answer.get("data")

    async def stream(self, op: str, **args: Any) -> AsyncIterator[Any]:
        """Carry out the streaming *op* and yield its items as they come."""
        async with self._connected() as (reader, writer):
            writer.write(protocol.encode({"op": op, "args": args}))
            while (answer := await self._read(reader)).get("more"):
                yield answer.get("data")
            if not answer.get("ok"):
                raise protocol.revive(answer)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_ANSWER)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"{self.path}: no daemon listens there (echoschedd start)") from None
        except PermissionError:
            raise PermissionRefused(
                f"{self.path}: you may not talk to this daemon (its user or root may)"
            ) from None
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror or error}") from None
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            line = await reader.readline()
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.path}: {error}") from None
        if not line.endswith(b"\n"):
            raise Unreachable(f"{self.path}: the daemon hung up (echoschedd status)")
        return protocol.decode(line)

"""Talking to a daemon from a shell or a script, with plain blocking sockets.

Kept light: ``echoschedd status`` imports this.
"""

from __future__ import annotations

import socket

from echosched.control import protocol
from echosched.errors import NotRunning, PermissionRefused, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from echosched.config.paths import Paths


class ControlClient:
    """One connection to the control socket at *path*; *timeout* in seconds bounds each wait for an answer."""

    def __init__(self, path: str, *, timeout: float | None = 30.0) -> None:
        self.path = path
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, op: str, **args: Any) -> Any:
        """Carry out *op* and return its data.

        Raises ``NotRunning`` when nobody listens, ``Unreachable`` when nobody answers, and whatever the
        operation itself raised.
        """
        answer = self._request(op, args)
        if not answer.get("ok"):
            raise protocol.revive(answer)
        return answer.get("data")

    def stream(self, op: str, **args: Any) -> Iterator[Any]:
        """Carry out the streaming *op* and yield its items as they come, without a time limit."""
        answer = self._request(op, args, patient=True)
        while answer.get("more"):
            yield answer.get("data")
            answer = self._read()
        if not answer.get("ok"):
            raise protocol.revive(answer)

    def _request(self, op: str, args: dict[str, Any], *, patient: bool = False) -> dict[str, Any]:
        try:
            sock = self._connect()
            sock.settimeout(self._timeout)
            sock.sendall(protocol.encode({"op": op, "args": args}))
            if patient:  # also for the first item: a job may say nothing for hours
                sock.settimeout(None)
        except (FileNotFoundError, ConnectionRefusedError):
            self.close()
            raise NotRunning(f"{self.path}: no daemon listens there (echoschedd start)") from None
        except PermissionError:
            self.close()
            raise PermissionRefused(
                f"{self.path}: you may not talk to this daemon (its user or root may)"
            ) from None
        except OSError as error:
            self.close()
            raise Unreachable(f"{self.path}: {error.strerror or error} (echoschedd status)") from None
        return self._read()

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._timeout)
            self._socket.connect(self.path)
        return self._socket

    def _read(self) -> dict[str, Any]:
        assert self._socket is not None  # noqa: S101
        while b"\n" not in self._buffer:
            try:
                chunk = self._socket.recv(1 << 16)
            except TimeoutError:
                self.close()
                raise Unreachable(
                    f"{self.path}: no answer within {self._timeout:g} s (echoschedd status shows whether it stalls)"
                ) from None
            except OSError as error:
                self.close()
                raise Unreachable(f"{self.path}: {error.strerror or error}") from None
            if not chunk:
                self.close()
                raise Unreachable(f"{self.path}: the daemon hung up (echoschedd status)")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return protocol.decode(line)


def full_status(paths: Paths, *, timeout: float = 2.0) -> dict[str, Any]:
    """Return ``status --json`` of the instance at *paths*; ``lsb`` is LSB's exit code for it.

    The worker is asked only while its loop beats, and for *timeout* seconds at most: what it would add
    (jobs, runs, next) is empty otherwise, and never keeps the verdict waiting.
    """
    from echosched.daemon.inspect import inspect

    document = inspect(paths)  # type: ignore[arg-type]  # the configuration's Paths has the same fields
    document.update(jobs=None, runs=None, next=[], cluster=None)
    if document["running"] and document["health"] in ("ok", "degraded") and document["worker_pid"]:
        try:
            with ControlClient(paths.socket, timeout=timeout) as client:
                document.update(client.call("status"))
        except (NotRunning, Unreachable, PermissionRefused) as error:
            document["reasons"] = [str(error)]
    if document.get("reasons") and document["health"] == "ok":
        document["health"] = "degraded"
    return document

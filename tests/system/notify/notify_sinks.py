"""Real servers on loopback that take messages, well or badly, as a test tells them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage


class Sink:
    """A server on loopback that leaves nothing behind."""

    port: int = 0

    async def __aenter__(self):
        self._tasks: set[asyncio.Task] = set()
        self._server = await asyncio.start_server(self._come, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._talk(reader, writer)
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()
            self._tasks.discard(task)


@dataclass
class SmtpSink(Sink):
    """As much of RFC 5321 as smtplib speaks; *answers* maps a command to what it is refused with."""

    tls: ssl.SSLContext | None = None
    answers: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    silent: bool = False
    came: int = 0

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        if self.silent:
            await reader.read()
            return
        await self._session(reader, writer)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender, recipients = "", []

        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        say("220 sink ready")
        while line := await reader.readline():
            text = line.decode().strip()
            verb = text.split(" ")[0].upper()
            if verb in self.answers:
                say(self.answers[verb])
            elif verb == "EHLO":
                features = [
                    f for f, on in (("STARTTLS", self.tls), ("AUTH PLAIN", True), ("8BITMIME", True)) if on
                ]
                for number, feature in enumerate(["sink", *features]):
                    say(f"250{' ' if number == len(features) else '-'}{feature}")
            elif verb == "STARTTLS" and self.tls is not None:
                say("220 go on")
                await writer.drain()
                await writer.start_tls(self.tls)
            elif verb == "AUTH":
                self.logins.append(base64.b64decode(text.split(" ")[2]).decode())
                say("235 welcome")
            elif verb == "MAIL":
                sender, recipients = text.partition("<")[2].partition(">")[0], []
                say("250 ok")
            elif verb == "RCPT":
                who = text.partition("<")[2].partition(">")[0]
                recipients += [] if who in self.refused else [who]
                say("550 no such user" if who in self.refused else "250 ok")
            elif verb == "DATA":
                say("354 go on")
                data = b""
                while (part := await reader.readline()) != b".\r\n":
                    data += part[1:] if part.startswith(b"..") else part
                self.mails.append(email.message_from_bytes(data, policy=email.policy.default))
                self.envelopes.append((sender, tuple(recipients)))
                say("250 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")
            await writer.drain()


@dataclass
class Hit:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpSink(Sink):
    """Answers each request with the next of *statuses* (the last one for ever); keeps what came."""

    statuses: list[int] = field(default_factory=lambda: [200])
    hits: list[Hit] = field(default_factory=list)
    manner: str = "answer"  # answer, hang, drip, redirect, garbage

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        self.hits.append(Hit(method, path, headers, body))
        if self.manner == "hang":
            await reader.read()
            return
        if self.manner == "garbage":
            writer.write(b"\x00\xff not http at all\r\n\r\n")
            await writer.drain()
            return
        if self.manner == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        more = f"Location: {self.url}/elsewhere\r\n" if self.manner == "redirect" else ""
        writer.write(
            f"HTTP/1.1 {status} x\r\n{more}Content-Length: 2\r\nConnection: close\r\n\r\nok".encode()
        )
        await writer.drain()

"""Reading the journal: from its end, and onwards across rotations."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

Keep = Callable[[str], bool]

_BLOCK = 64 * 1024


def parse(text: str | bytes) -> dict[str, Any] | None:
    """Return the event of a journal line, ``None`` if it is none.

    Where a crash of the disk glued two lines together, the second, whole one is found.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    at = 0
    while at >= 0:
        try:
            document = json.loads(text[at:])
        except (ValueError, RecursionError):
            at = text.find('{"ts":', at + 1)
        else:
            return document if isinstance(document, dict) else None
    return None


def rotated(path: str | Path) -> Iterator[str]:
    """Yield the rotated files of *path* that exist, newest first (``.1``, ``.2.gz`` …)."""
    base = os.fspath(path)
    number = 1
    while True:
        names = [name for name in (f"{base}.{number}", f"{base}.{number}.gz") if os.path.exists(name)]
        if not names:
            return
        yield names[0]
        number += 1


def tail(path: str | Path, n: int, *, keep: Keep | None = None) -> list[str]:
    """Return the last *n* lines (of those that *keep* accepts), oldest first, reaching into rotated files.

    Reads from the end: the size of the file does not matter. A file that does not exist has no lines;
    one that may not be read raises ``OSError``.
    """
    with contextlib.closing(Follower(path, last=n, keep=keep)) as follower:
        return follower.read() if n > 0 else []


def follow(
    path: str | Path, wait: Callable[[], bool], *, last: int = 0, keep: Keep | None = None
) -> Iterator[str]:
    """Yield the *last* lines, then every new one, across rotations, until *wait* answers ``False``.

    *wait* is called whenever nothing new is there: it lets a quarter of a second pass, or whatever the
    caller finds right, and tells whether to go on.
    """
    follower = Follower(path, last=last, keep=keep)
    try:
        while True:
            found = follower.read()
            yield from found
            if not found and not wait():
                return
    finally:
        follower.close()


async def afollow(
    path: str | Path,
    *,
    last: int = 0,
    position: str | None = None,
    keep: Keep | None = None,
    interval_seconds: float = 0.25,
) -> AsyncIterator[tuple[str, str]]:
    """Yield ``(position, line)`` for the *last* lines (or those behind *position*) and every new one, for ever.

    A *position* handed in again goes on right behind the lines that were read with it.
    """
    follower = Follower(path, last=last, position=position, keep=keep)
    try:
        while True:
            found = follower.entries()
            for entry in found:
                yield entry
            if not found:
                await asyncio.sleep(interval_seconds)
    finally:
        follower.close()


def _open(name: str) -> BinaryIO:
    if name.endswith(".gz"):
        import gzip

        return gzip.open(name)  # type: ignore[return-value]
    return open(name, "rb")


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Yield the complete lines before offset *end*, last first."""
    rest = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start) + rest
        lines = block.split(b"\n")
        rest = lines[0]
        yield from reversed([text for text in lines[1:] if text])
        end = start
    if rest:
        yield rest


class Follower:
    """Reads a journal onwards, across rotations, without ever waiting.

    Begins with the *last* lines (0: none), or right behind *position* (a :attr:`position` of an
    earlier follower; one that no longer exists begins at the start of what is still there).
    """

    def __init__(
        self, path: str | Path, *, last: int = 0, position: str | None = None, keep: Keep | None = None
    ) -> None:
        self._path = os.fspath(path)
        self._keep = keep
        self._first: list[str] = []
        self._files: list[_Part] = []  # the current file is the last one; before it those being left
        if position is not None:
            self._resume(position)
            return
        current = _Part.open(self._path)
        if current is not None:
            self._files.append(current)
            current.skip_to_end()
        if last > 0:
            self._first = self._last_lines(current, last)

    @property
    def position(self) -> str:
        """Return where the next line will begin, as a word that another follower can go on from."""
        return self._files[-1].position if self._files else "0:0"

    def read(self) -> list[str]:
        """Return the complete lines that have come since the last call, oldest first."""
        return [text for _, text in self.entries()]

    def entries(self) -> list[tuple[str, str]]:
        """Return the complete lines that have come, each with the place behind it."""
        """Return what :meth:`read` does, each line with the position right behind it."""
        found = [(self.position, text) for text in self._first]
        self._first = []
        self._turn()
        for part in self._files:
            found.extend(entry for entry in part.entries() if self._keep is None or self._keep(entry[1]))
        # A file that was left is read a little longer: its writers reopen a moment after the rename.
        for part in self._files[:-1]:
            part.patience -= 1
            if part.patience <= 0:
                part.close()
        self._files = [part for part in self._files if not part.file.closed]
        return found

    def close(self) -> None:
        """Close what is open."""
        for part in self._files:
            part.close()
        self._files = []

    def _last_lines(self, current: _Part | None, n: int) -> list[str]:
        found: list[str] = []

        def take(raw: bytes) -> bool:
            text = raw.decode(errors="replace")
            if self._keep is None or self._keep(text):
                found.append(text)
            return len(found) >= n

        if current is not None and any(take(raw) for raw in _backwards(current.file, current.offset)):
            return found[::-1]
        inode = current.inode if current else None
        for name in rotated(self._path):
            with _open(name) as file:
                if not name.endswith(".gz") and os.fstat(file.fileno()).st_ino == inode:
                    continue  # rotated this very moment: already read as the current one
                if any(take(raw) for raw in _backwards(file, file.seek(0, os.SEEK_END))):
                    break
        return found[::-1]

    def _resume(self, position: str) -> None:
        inode, _, offset = position.partition(":")
        names = [self._path, *(name for name in rotated(self._path) if not name.endswith(".gz"))]
        newer: list[_Part] = []
        for name in names:
            part = _Part.open(name)
            if part is None:
                continue
            newer.insert(0, part)
            if str(part.inode) == inode and offset.isdigit():
                part.offset = int(offset)
                break
        else:
            for part in newer[:-1]:
                part.close()
            newer = newer[-1:]
        self._files = newer

    def _turn(self) -> None:
        """Take up the new files when the path names another one than the one being read."""
        inode = self._files[-1].inode if self._files else None
        try:
            if os.stat(self._path).st_ino == inode:
                return
        except OSError:
            return
        newer: list[_Part] = []
        # More than one rotation may have happened since: everything newer than the file we know.
        for name in [self._path, *rotated(self._path)]:
            part = None if name.endswith(".gz") else _Part.open(name)
            if part is None:
                continue
            if part.inode == inode or (inode is None and newer):
                part.close()
                break
            newer.insert(0, part)
        else:
            for part in newer[:-1]:  # the known file is gone: only the current one is surely new
                part.close()
            newer = newer[-1:]
        self._files.extend(newer)


class _Part:
    """One file of a journal being read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.inode = os.fstat(file.fileno()).st_ino
        self.offset = 0
        self.patience = 40

    @classmethod
    def open(cls, path: str) -> _Part | None:
        """Return the file at *path* from its beginning, ``None`` where there is none."""
        try:
            return cls(open(path, "rb"))
        except FileNotFoundError:
            return None

    @property
    def position(self) -> str:
        """Return the place behind what was read: ``inode:offset``."""
        return f"{self.inode}:{self.offset}"

    def skip_to_end(self) -> None:
        """Go behind the last complete line: a half-written one is for the next read."""
        size = self.file.seek(0, os.SEEK_END)
        while size > 0:
            start = max(0, size - _BLOCK)
            self.file.seek(start)
            cut = self.file.read(size - start).rfind(b"\n")
            if cut >= 0:
                self.offset = start + cut + 1
                return
            size = start

    def entries(self) -> list[tuple[str, str]]:
        if os.fstat(self.file.fileno()).st_size < self.offset:
            self.offset = 0  # truncated in place (logrotate's copytruncate)
        self.file.seek(self.offset)
        found = self.file.read()
        entries = []
        for raw in found[: found.rfind(b"\n") + 1].splitlines(keepends=True):
            self.offset += len(raw)
            if text := raw.rstrip(b"\r\n"):
                entries.append((self.position, text.decode(errors="replace")))
        return entries

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

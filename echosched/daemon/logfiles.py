"""The supervisor's side of the files: its own journal lines, and rotation.

A line is one ``write`` to a descriptor opened with O_APPEND just for it: supervisor events are rare,
and so it always reaches the file that bears the name. Only the supervisor rotates: it renames, makes
the new file, then tells the worker to reopen. Until the worker has done so its lines go to the
renamed file: none is lost.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys

from echosched.daemon import instant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class SupervisorJournal:
    """Writes events in the journal's form (see :mod:`echosched.events`, whose fields these are)."""

    __slots__ = ("_screen", "_torn", "path")

    def __init__(self, path: str | None, *, echo: bool) -> None:
        """Write to *path*; with *echo* also to stdout (the foreground's habit)."""
        self.path = path
        self._screen = Screen(1) if echo else None
        self._torn = False

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event. An unwritable journal never stops the supervisor; stderr says so."""
        line = json.dumps({"ts": instant.now_text(), "event": event, **fields}, separators=(",", ":")) + "\n"
        data = line.encode()
        if self._screen is not None:
            self._screen.put(data)
        if self.path is None:
            return
        try:
            descriptor = os.open(self.path, APPEND, 0o640)
            try:
                # A full disk may take half a line: the next one must not be glued to it.
                whole = b"\n" + data if self._torn else data
                written = os.write(descriptor, whole)
                self._torn = written < len(whole) and (self._torn or written > 0)
                if written < len(whole):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            complain(f"{self.path}: {error.strerror}; lost line: {line.rstrip()}")


class Screen:
    """A standard descriptor that may be a terminal, a pipe or gone; never waits for whoever reads it.

    A stopped terminal (Ctrl-S) or a pager must not stop the supervisor. The descriptor itself may be
    shared with a shell, so it is not made non-blocking: the same file is opened a second time.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, number: int) -> None:
        self._descriptor = number
        try:
            kind = os.fstat(number).st_mode
            if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._descriptor = os.open(f"/proc/self/fd/{number}", flags)
        except OSError:
            pass  # another user's terminal, or no /proc: the descriptor as it is

    def put(self, data: bytes) -> None:
        """Write *data* if there is room for it; otherwise it is not shown."""
        try:
            os.write(self._descriptor, data)
        except OSError:
            pass

    def close(self) -> None:
        """Close what was opened a second time."""
        if self._descriptor > 2:
            os.close(self._descriptor)


def complain(text: str, who: str = "supervisor") -> None:
    """Write a line to stderr (``.out`` of a detached daemon), whatever has become of it."""
    screen = Screen(2)
    screen.put(f"{instant.now_text()} {who}: {text}\n".encode())
    screen.close()


def reopen_output(path: str) -> None:
    """Point descriptors 1 and 2 at the file that now bears the name *path*."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    descriptor = os.open(path, APPEND, 0o640)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    finally:
        os.close(descriptor)


def rotate_oversized(
    paths: tuple[str | None, ...], max_size: int, keep: int, complain_: Callable[[str], None]
) -> bool:
    """Rotate each of *paths* that has reached *max_size* bytes (0: never); tell whether any was."""
    rotated = False
    for path in paths:
        try:
            if path is not None and 0 < max_size <= os.stat(path).st_size:
                rotate(path, keep)
                rotated = True
        except FileNotFoundError:
            continue  # taken away by somebody; the next line makes it anew
        except OSError as error:
            complain_(f"{path}: cannot be rotated: {error.strerror}")
    return rotated


def rotate(path: str, keep: int) -> None:
    """Make *path* an empty file and *path*.1 the full one; *keep* old ones stay. Raises ``OSError``."""
    if keep <= 0:
        keep = 1  # writers still hold the renamed file: it may only go at the next rotation
    try:
        os.unlink(f"{path}.{keep}")
    except FileNotFoundError:
        pass
    for number in range(keep - 1, 0, -1):
        try:
            os.rename(f"{path}.{number}", f"{path}.{number + 1}")
        except FileNotFoundError:
            continue
    os.rename(path, f"{path}.1")
    os.close(os.open(path, APPEND, 0o640))

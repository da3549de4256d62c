"""The supervisor's side of the files: its own journal lines, and rotation.

A line is one ``write`` to a descriptor opened with O_APPEND just for it: supervisor events are rare,
and so it always reaches the file that bears the name. Only the supervisor rotates: it renames, makes
the new file, then tells the worker to reopen. Until the worker has done so its lines go to the
renamed file: none is lost.
"""

from __future__ import annotations

import json
import os
import sys

from echosched.daemon import instant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class SupervisorJournal:
    """Writes events in the journal's form (see :mod:`echosched.events`, whose fields these are)."""

    __slots__ = ("_echo", "path")

    def __init__(self, path: str | None, *, echo: bool) -> None:
        """Write to *path*; with *echo* also to stdout (the foreground's habit)."""
        self.path = path
        self._echo = echo

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event. An unwritable journal never stops the supervisor; stderr says so."""
        line = json.dumps({"ts": instant.now_text(), "event": event, **fields}, separators=(",", ":")) + "\n"
        data = line.encode()
        if self._echo:
            try:
                os.write(1, data)
            except OSError:
                self._echo = False  # the terminal is gone
        if self.path is None:
            return
        try:
            descriptor = os.open(self.path, APPEND, 0o640)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            complain(f"{self.path}: {error.strerror}; lost line: {line.rstrip()}")


def complain(text: str) -> None:
    """Write a line to stderr (``.out`` of a detached daemon), whatever has become of it."""
    try:
        os.write(2, f"{instant.now_text()} supervisor: {text}\n".encode())
    except OSError:
        pass


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


def is_oversized(path: str | None, max_size: int) -> bool:
    """Tell whether *path* has reached the size at which it is rotated (0: never)."""
    if path is None or max_size <= 0:
        return False
    try:
        return os.stat(path).st_size >= max_size
    except OSError:
        return False


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

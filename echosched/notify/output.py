"""The part of a run's output that goes along with a message, secrets masked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from echosched.notify.message import plain

_TAIL_BYTES = 8 * 1024
_TAIL_LINES = 50
_WHOLE_BYTES = 1024 * 1024
_MARGIN = 4096  # read beyond what is sent, so that no secret is cut in two before it is masked


def tail(path: str | Path, redact: Callable[[str], str], *, lines: int = _TAIL_LINES) -> str:
    """Return the last *lines* of an output, a few kilobytes at most; empty when there is none."""
    _size, raw = _read(path, _TAIL_BYTES + _MARGIN, from_end=True)
    return "\n".join(plain(redact(raw))[-_TAIL_BYTES:].splitlines()[-lines:])


def whole(path: str | Path, redact: Callable[[str], str]) -> str:
    """Return an output from its beginning, a mebibyte at most."""
    size, raw = _read(path, _WHOLE_BYTES + _MARGIN, from_end=False)
    text = plain(redact(raw))[:_WHOLE_BYTES]
    return text + (f"\n(… {size} bytes in all)" if size > _WHOLE_BYTES else "")


def _read(path: str | Path, limit: int, *, from_end: bool) -> tuple[int, str]:
    """Return the size of a file and at most *limit* bytes of it; nothing for one that is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0, ""
    with open(fd, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit) if from_end else 0)
        return size, file.read(limit).decode(errors="replace")

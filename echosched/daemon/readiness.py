"""The readiness pipe: started means started.

The launcher waits at one end; whoever becomes the daemon writes exactly one JSON line at the other:
``{"ready": true, "pid": N}`` or ``{"exit_code": N, "message": "…"}``. End of file without a line means
that the daemon died without a word. The launcher stops reading at the line: the daemon may go on
holding its end.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pipe() -> tuple[int, int]:
    """Return the launcher's (reading) and the daemon's (writing) end, both close-on-exec."""
    return os.pipe()


def tell_ready(descriptor: int, pid: int) -> None:
    """Say READY and close. A launcher that has died meanwhile is no reason to fail."""
    _tell(descriptor, {"ready": True, "pid": pid})


def tell_failure(descriptor: int, exit_code: int, message: str) -> None:
    """Say why there will be no daemon, and close."""
    _tell(descriptor, {"exit_code": exit_code, "message": message})


def wait(descriptor: int) -> dict[str, Any] | None:
    """Return the daemon's line, or ``None`` when all writers have gone without one."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return None
        data += chunk
    document: dict[str, Any] = json.loads(data[: data.index(b"\n")])
    return document


def tail(path: str | None, start: int = 0, *, lines: int = 20, limit: int = 8192) -> str:
    """Return the last *lines* of the file at *path* written after byte *start*."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            # Shorter than before: rotated in between, all of it is new.
            begin = start if start <= end else 0
            file.seek(max(begin, end - limit))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def size_of(path: str | None) -> int:
    """Return the size of the file at *path*, 0 when there is none."""
    try:
        return 0 if path is None else os.stat(path).st_size
    except OSError:
        return 0


def _tell(descriptor: int, document: dict[str, Any]) -> None:
    data = json.dumps(document).encode() + b"\n"
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:  # Python ignores SIGPIPE, so this is all that happens
        pass
    finally:
        os.close(descriptor)

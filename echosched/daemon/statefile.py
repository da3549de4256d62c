"""The state file: what a pidfile cannot hold, and the verdict on how a daemon ended.

A JSON document replaced by atomic rename, written by the supervisor at each change and once a
minute. While ``ended`` is null and nobody holds the lock, the daemon died unseen; :func:`verdict`
then tells what can be known from boot id, pid namespace and the last beat.
"""

from __future__ import annotations

import json
import os

from echosched.daemon import instant, proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
# A death this soon after detaching, without a word, is what hosts do that end detached processes.
SOON_SECONDS = 30.0


def read(path: str) -> dict[str, Any] | None:
    """Return the document at *path*; ``None`` when missing, unreadable or damaged."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(1 << 22))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("pid"), int) else None


def is_withheld(path: str) -> bool:
    """Tell whether something lies at *path* that this account may not read."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def write(path: str, document: dict[str, Any]) -> None:
    """Replace the file at *path* in one step (mode 0640). Raises ``OSError``; the old one stays then."""
    temporary = path + ".new"  # one name: only the holder of the lock writes, and litter is reused
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640
    )
    try:
        try:
            data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def identity() -> dict[str, Any]:
    """Return the fields that say which process this is, beyond its number."""
    pid = os.getpid()
    return {
        "format": FORMAT,
        "pid": pid,
        "start_ticks": proc.start_ticks(pid),
        "boot_id": proc.boot_id(),
        "pid_namespace": proc.pid_namespace(),
    }


def is_same_world(document: dict[str, Any]) -> bool:
    """Tell whether pids in *document* mean the same here: same boot, same pid namespace."""
    return document.get("boot_id") == proc.boot_id() and document.get("pid_namespace") == proc.pid_namespace()


def describes(document: dict[str, Any] | None, pid: int | None) -> bool:
    """Tell whether *document* is about the process that is *pid* now (alive, and no later namesake)."""
    return (
        document is not None
        and pid is not None
        and document["pid"] == pid
        and is_same_world(document)
        and proc.is_alive(pid, document.get("start_ticks"))
    )


def verdict(document: dict[str, Any], last_beat_micros: int | None = None) -> dict[str, Any]:
    """Return how the daemon that left *document* ended; only for one that is known to be gone.

    ``{"how", "at", "exit_code", "detail"}``: *how* is ``clean``, ``signal 9``, ``vanished 0.4 s after
    detaching`` and the like; *detail* a sentence with the evidence and, where it helps, the cure.
    """
    ended = document.get("ended")
    if isinstance(ended, dict):
        return ended
    last_micros = max(last_beat_micros or 0, document.get("last_beat_micros") or 0)
    started_micros = document.get("started_micros") or 0
    lived = max(0.0, (last_micros - started_micros) / 1e6) if last_micros and started_micros else 0.0
    background = document.get("mode") != "foreground"
    after = f"{lived:.1f} s after {'detaching' if background else 'starting'}"
    at = instant.text_of(last_micros) if last_micros else None
    if document.get("boot_id") != proc.boot_id():
        how, detail = "vanished with the machine", "the machine was restarted or lost power"
    elif document.get("pid_namespace") != proc.pid_namespace():
        how = f"vanished {after}"
        detail = "its container or pid namespace ended, and every process in it"
        if background:
            detail += "; where the host ends detached processes, start it with --foreground"
    elif background and lived < SOON_SECONDS:
        how = "signal 9"
        detail = f"killed without a trace {after}; if this host ends detached processes, start it with --foreground"
    else:
        how = "signal 9"
        detail = "killed without a trace (SIGKILL, or the kernel when it ran out of memory)"
    return {"how": how, "at": at, "exit_code": None, "detail": detail}

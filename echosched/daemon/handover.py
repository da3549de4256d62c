"""Passing everything on over ``exec``: one mechanism for start, foreground and upgrade.

The document travels as JSON on an inherited memory file whose number is the new program's only
argument; descriptors named in it are inherited too. Signals are blocked from before the exec until
the new program has its handlers, so that none is lost and none meets a default disposition.
"""

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
HANDLED = frozenset(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT", "SIGRTMIN")
    if hasattr(signal, name)
)
# Stop, but leave running jobs alone: how `restart --keep-jobs` asks, without needing the worker.
KEEP_JOBS_SIGNAL = signal.SIGRTMIN if hasattr(signal, "SIGRTMIN") else signal.SIGQUIT


def command(*arguments: str) -> list[str]:
    """Return the argument vector of the supervisor.

    ``-I -S``: neither the environment nor site-packages decide what a root daemon imports, and it
    needs nothing but the standard library; ``__main__`` puts its own package's root on the path.
    """
    # Paths in the document must come to the same bytes here as they did where they were written.
    utf8 = ["-X", "utf8"] if sys.flags.utf8_mode else []
    return [sys.executable, "-I", "-S", *utf8, MAIN, *arguments]


def write(document: dict[str, Any]) -> int:
    """Return an inheritable descriptor from which :func:`read` gets *document* back."""
    data = json.dumps(document).encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("handover", 0)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)
    return descriptor


def read(descriptor: int) -> dict[str, Any]:
    """Return the document on *descriptor* and close it."""
    with open(descriptor, "rb") as file:
        document: dict[str, Any] = json.load(file)
    return document


def execute(document: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Become the supervisor (same pid) that *document* describes; *descriptors* go with it.

    Raises ``OSError`` when that fails, with everything as it was before.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    was_inheritable = [os.get_inheritable(descriptor) for descriptor in descriptors]
    carrier = write(document)
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        # The pidfile is there for whoever reads ``ps``.
        os.execv(sys.executable, command(str(carrier), document["settings"]["paths"]["pidfile"]))  # noqa: S606 - an argument vector, no shell
    except OSError as error:  # which does not say what could not be executed
        raise OSError(error.errno, os.strerror(error.errno or 0), sys.executable) from error
    finally:
        os.close(carrier)
        for descriptor, flag in zip(descriptors, was_inheritable, strict=True):
            os.set_inheritable(descriptor, flag)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)

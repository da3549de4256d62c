"""A pseudo-terminal with a program in it: what a person at the keyboard would see and press."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

PATIENCE_SECONDS = 60.0
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9A-Z]?)")


class Terminal:
    """Runs *argv* on a terminal of its own, *columns* wide."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        columns: int = 120,
        term: str = "xterm-256color",
    ) -> None:
        self.raw = ""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

        def own_terminal() -> None:  # so that Ctrl-C reaches it as a signal
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = {key: value for key, value in environ.items() if key not in ("COLUMNS", "LINES")}
        self.child = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": term},
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(slave)
        self._master = master

    @property
    def text(self) -> str:
        """Return all that was shown so far, without colours and cursor movements."""
        return ESCAPE.sub("", self.raw).replace("\r", "")

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what is there, waiting *seconds* at most; ``False`` when the program has hung up."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait until *pattern* has been shown."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            alive = self.read()
            assert alive or re.search(pattern, self.text), f"ended without {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {pattern!r} in {seconds:.0f} s:\n{self.text}"
        return found

    def press(self, keys: str) -> None:
        """Type *keys* (``\\x03`` is Ctrl-C)."""
        os.write(self._master, keys.encode())

    def end(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the program's end; return its exit code."""
        deadline = time.monotonic() + seconds
        while self.read() and self.child.poll() is None:
            assert time.monotonic() < deadline, f"still there after {seconds:.0f} s:\n{self.text}"
        code = self.child.wait(max(1.0, deadline - time.monotonic()))
        while select.select([self._master], [], [], 0)[0] and self.read(0):
            pass
        return code

    def close(self) -> None:
        if self.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        os.close(self._master)

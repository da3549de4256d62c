"""A clock of the daemon's own: the wall clock is moved at the system-call edge, never the machine's."""

from __future__ import annotations

import mmap
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .driver import Ordeal


class ClockShim:
    """The daemon's wall clock, relative to the machine's."""

    def __init__(self, directory: Path, ordeal: Ordeal) -> None:
        self.ordeal = ordeal
        library, offsets = directory / "clockshim.so", directory / "clock"
        source = Path(__file__).with_name("clockshim.c")
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        offsets.write_bytes(bytes(16))
        with open(offsets, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        ordeal.environ |= {"LD_PRELOAD": str(library), "CLOCKSHIM": str(offsets)}
        self.boot = timedelta(0)

    def step(self, by: timedelta, *, asleep: bool = False) -> None:
        """Set the clock (*asleep*: as after a suspend of that length)."""
        self.ordeal.offset += by
        self.boot += by if asleep else timedelta(0)
        nanos = [(each // timedelta(microseconds=1)) * 1000 for each in (self.ordeal.offset, self.boot)]
        self._map[:16] = struct.pack("qq", *nanos)

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.ordeal.offset

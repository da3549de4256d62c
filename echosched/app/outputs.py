"""Where the outputs of attempts lie on disk."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import struct
import threading
from collections.abc import Set
from datetime import datetime

from echosched.app.spare import SpareOutputs, highest_in
from echosched.clock import SystemClock
from echosched.errors import ExecutionError, OutputUnavailable
from echosched.executor import never_started, unbar
from echosched.executor.answer import SUFFIX as ANSWER_SUFFIX
from echosched.executor.output import DISK_ERRORS
from echosched.operations.pieces import RUNS_PER_DIRECTORY, find_output, output_file


class Outputs:
    """Where attempts' outputs lie: ``runs/NNN/RUN.ATTEMPT.log``, a thousand runs a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._made: set[int] = set()
        self._wanted = -1  # the last one that was to be made before a run needs it
        self._making = threading.Lock()
        self._barred: set[tuple[int, int]] = set()
        self.spare = SpareOutputs(directory)

    def path(self, run: int, attempt: int) -> str:
        """Return the path of an attempt's output, whether it exists or not."""
        return find_output(self._directory, run, attempt)

    def prepare(self, run: int, attempt: int) -> str:
        """Return the path of an output to be written: its directory exists. Raises ``ExecutionError``."""
        shard, number = divmod(run, RUNS_PER_DIRECTORY)
        if shard not in self._made:
            try:
                self._make(shard)
            except OSError as error:
                kind = OutputUnavailable if error.errno in DISK_ERRORS else ExecutionError
                raise kind(f"output directory {error.filename}: {error.strerror}") from error
        if number >= RUNS_PER_DIRECTORY // 2 and shard >= self._wanted:
            # Where the disk is busy with a commit, making a directory takes as long as that: not in the loop.
            self._wanted = shard + 1
            with contextlib.suppress(RuntimeError):  # no thread is left: the first run that needs it makes it
                threading.Thread(
                    target=self._make_ahead, args=(shard + 1,), name="outputs", daemon=True
                ).start()
        path = output_file(self._directory, run, attempt)
        if (run, attempt) in self._barred:
            self._barred.discard((run, attempt))
            unbar(path)
        return path

    def warm(self) -> None:
        """Make the directory that the next run is likely to want, before it does; blocks."""
        shards: list[int] = []
        with contextlib.suppress(OSError):
            shards = self._shards()
        self._make_ahead(shards[0] if shards else 0)

    def _make_ahead(self, shard: int) -> None:
        with contextlib.suppress(OSError):  # told by the first run that needs it
            self._make(shard)

    def _make(self, shard: int) -> None:
        with self._making:
            if shard not in self._made:
                _make_shard(self._directory, f"{shard:03d}")
                self._made = {shard, *(made for made in self._made if abs(made - shard) == 1)}

    def age(self, run: int, attempt: int) -> float:
        """Return how many seconds ago an output was last written; without one, for ever."""
        try:
            return SystemClock().now().timestamp() - os.lstat(self.path(run, attempt)).st_mtime
        except OSError:
            return math.inf

    def remove(self, run: int, attempt: int) -> None:
        """Remove an output whose attempt begins anew."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(run, attempt))

    def sweep(self, live: Set[int], before: datetime) -> None:
        """Bring outputs home, and remove answers, older than *before*, that no run of *live* left.

        A worker that died between the commit of a result and the removal of its answer left them; of the newest
        two thousand runs, which is where they are.
        """
        self.spare.bring_home(live)
        try:
            shards = self._shards()[:2]
        except OSError:
            return  # nothing ran here yet
        for shard in shards:
            directory = f"{self._directory}/{shard:03d}"
            with contextlib.suppress(OSError):
                for entry in os.scandir(directory):
                    run = entry.name.partition(".")[0]
                    if not entry.name.endswith(ANSWER_SUFFIX) or not run.isdigit() or int(run) in live:
                        continue
                    with contextlib.suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_mtime < before.timestamp():
                            os.unlink(entry.path)

    def _shards(self) -> list[int]:
        names = os.listdir(self._directory)
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def highest_run(self) -> int:
        """Return the highest run number that left an output; 0 without any."""
        return max(self._highest_run(), self.spare.highest_run())

    def _highest_run(self) -> int:
        try:
            for shard in self._shards():
                if highest := highest_in(f"{self._directory}/{shard:03d}"):
                    return highest
        except OSError:
            return 0
        return 0

    def began(self, run: int, attempt: int) -> bool:
        """Tell whether that attempt was ever started: its start is what creates the file.

        If not, no start that an earlier worker left under way succeeds any more; ours is let through again by
        :meth:`prepare`.
        """
        usual = output_file(self._directory, run, attempt)
        if self.path(run, attempt) != usual or not never_started(usual):
            return True
        self._barred.add((run, attempt))
        return False


_LONG = struct.calcsize("l")
_GET_FLAGS = 0x8000_6601 | _LONG << 16  # FS_IOC_GETFLAGS
_SET_FLAGS = 0x4000_6602 | _LONG << 16  # FS_IOC_SETFLAGS
_SPREAD = 0x0002_0000  # FS_TOPDIR_FL, the T of chattr(1)


def _make_shard(parent: str, name: str) -> None:
    """Make a directory where files are cheap to make.

    ext4 makes a file near its directory, and a directory near its parent; where many files were deleted within the
    last minutes it passes over each of their inodes, and a new file costs twenty times as much. With the flag T
    on the parent each directory gets a place of its own, chosen by its name at birth: hence a chance name first.
    """
    path = os.path.join(parent, name)
    if os.path.isdir(path):
        return
    os.makedirs(parent, mode=0o750, exist_ok=True)
    _spread(parent)
    fresh = f"{parent}/.new-{os.urandom(8).hex()}"
    os.mkdir(fresh, 0o750)
    try:
        os.rename(fresh, path)
    except OSError:
        os.rmdir(fresh)
        if not os.path.isdir(path):  # else another worker was faster
            raise


def _spread(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Other filesystems know no flags, or not this one: there it stays as it is.
        with contextlib.suppress(OSError):
            packed = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(_LONG))
            flags = struct.unpack("l", packed)[0]
            if not flags & _SPREAD:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _SPREAD))
    finally:
        os.close(descriptor)

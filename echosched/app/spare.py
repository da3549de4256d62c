"""Where outputs go while the disk that they belong to takes no file: a full one, a read-only one, a broken one.

They cannot be left out. That an attempt made its file is what shows the next worker that it began, and a call's answer
lies beside it. So they go to memory, or to another disk, and come home when they can.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Set

from echosched.clock import SystemClock
from echosched.errors import OutputUnavailable
from echosched.executor import unbar
from echosched.operations.pieces import is_theirs, output_file, spare_directories

_FAILING_SECONDS = 60.0
_MOST_SPARE = 1000


class SpareOutputs:
    """Outputs that belong to *directory* and lie elsewhere."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._failing_at: float | None = None  # monotonic: when an output had to go elsewhere, last

    def prepare(self, run: int, attempt: int) -> str:
        """Return the path of an output to be written elsewhere, since here no file can be made.

        In memory, or on another disk: a start that leaves no file is one that the next worker would make again.
        Raises ``OutputUnavailable``.
        """
        failure: OSError | None = None
        for directory in spare_directories(self._directory):
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
                if not is_theirs(directory, self._directory):
                    continue
                path = f"{directory}/{run}.{attempt}.log"
                unbar(path)
                self._prune(directory)
            except OSError as error:
                failure = error
                continue
            self._failing_at = SystemClock().monotonic()
            return path
        raise OutputUnavailable(
            f"output file: neither {self._directory} nor any other place takes one"
            + (f" ({failure.strerror})" if failure else "")
        )

    @property
    def is_failing(self) -> bool:
        """Tell whether an output had to go elsewhere within the last minute."""
        return (
            self._failing_at is not None and SystemClock().monotonic() - self._failing_at < _FAILING_SECONDS
        )

    @property
    def may_come_home(self) -> bool:
        """Tell whether outputs went elsewhere, and no more do."""
        return self._failing_at is not None and not self.is_failing

    def bring_home(self, live: Set[int]) -> None:
        """Move outputs that had to go elsewhere to where they belong, but for those of the runs *live*."""
        self._failing_at = None
        for directory in spare_directories(self._directory):
            if not is_theirs(directory, self._directory):
                continue
            with contextlib.suppress(OSError):
                for name in os.listdir(directory):
                    run, attempt = (int(word) if word.isdigit() else -1 for word in name.split(".")[:2])
                    if run >= 0 and attempt >= 0 and run not in live:
                        home = os.path.dirname(output_file(self._directory, run, attempt))
                        _move(f"{directory}/{name}", f"{home}/{name}")
                os.rmdir(directory)

    def _prune(self, directory: str) -> None:
        """Keep the spare outputs few: they may lie in memory."""
        names = os.listdir(directory)
        if len(names) >= _MOST_SPARE:
            oldest = sorted((f"{directory}/{name}" for name in names), key=_written_at)
            for path in oldest[: _MOST_SPARE // 2]:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def highest_run(self) -> int:
        """Return the highest run number that left an output elsewhere; 0 without any."""
        ours = [each for each in spare_directories(self._directory) if is_theirs(each, self._directory)]
        return max(map(highest_in, ours), default=0)


def highest_in(directory: str) -> int:
    """Return the highest run number of the outputs in *directory*; 0 without any."""
    try:
        heads = [name.partition(".")[0] for name in os.listdir(directory)]
    except OSError:
        return 0
    return max((int(head) for head in heads if head.isdigit()), default=0)


def _move(path: str, home: str) -> None:
    os.makedirs(os.path.dirname(home), mode=0o750, exist_ok=True)
    if not os.path.lexists(home):
        shutil.copyfile(path, f"{home}.part", follow_symlinks=False)
        os.chmod(f"{home}.part", 0o640)
        os.rename(f"{home}.part", home)
    os.unlink(path)


def _written_at(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0

"""What a job prints: a file that only the job writes to."""

from __future__ import annotations

import os

from echosched.errors import ExecutionError
from echosched.executor.spawn import OUTPUT_FLAGS, OUTPUT_MODE


def create(path: str) -> int:
    """Create an output file for an attempt without a process of its own; return its descriptor.

    Raises ``ExecutionError``, also where the file exists: the attempt was begun before.
    """
    try:
        return os.open(path, OUTPUT_FLAGS, OUTPUT_MODE)
    except OSError as err:
        raise ExecutionError(f"output file {path}: {err.strerror}") from err


def never_started(path: str) -> bool:
    """Tell whether the attempt with this output file certainly never began, and never will.

    The file is made by the attempt itself, exclusively, before anything else of it runs. Making it here
    first therefore bars even a start that is still under way in a dying worker. Attempts whose output
    is discarded leave no such proof. Raises ``OSError`` when the file cannot be made.
    """
    try:
        os.close(os.open(path, OUTPUT_FLAGS, OUTPUT_MODE))
    except FileExistsError:
        return False
    return True


def size_of(path: str | None) -> int | None:
    """Return the size of an output file, ``None`` where there is none."""
    if path is None:
        return None
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return None


def note(lost: int) -> bytes:
    """Return the line that stands where *lost* bytes were left out."""
    return f"\n… {lost} bytes left out …\n".encode()

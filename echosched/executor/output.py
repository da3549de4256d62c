"""What a job prints: a file that the job writes to directly, held to its limit from outside.

The job's descriptor appends (O_APPEND), so the file may be changed under it. While a job prints more
than its limit, the middle of the file is turned into a hole that takes no space (:func:`trim`); at the
end the file is closed up (:func:`finish`)::

    | head: limit/2 | … 123456 bytes left out … | tail: limit/2 |

Nothing passes through the daemon's memory, and output is not lost with a worker's death. From time to
time the hole itself is cut out where the file system can do that; the bytes that went with it are
counted in a line of fixed width behind the head, so that the next worker knows the number too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from typing import Any

from echosched.errors import ExecutionError, OutputUnavailable
from echosched.executor.spawn import OUTPUT_FLAGS, OUTPUT_MODE

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""The disk's fault, not that of whoever said where the file shall be."""

BLOCK = 4096
SLACK = 1024 * 1024  # beyond the limit before it is worth making a hole
_CUT_OUT = 64 * 1024 * 1024  # a hole that large is cut out
_CHUNK = 256 * 1024
_COUNT = 64  # width of the line that counts what was cut out
_COUNTED = re.compile(rb"\n\.\.\. +(\d+) bytes left out so far \.\.\. *\n")
_BAR = "never-started"  # where the link leads that stands for "this attempt has not begun"
_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE = 1, 2, 8


def create(path: str) -> int:
    """Create an output file for an attempt without a process of its own; return its descriptor.

    Raises ``ExecutionError``, also where the file exists: the attempt was begun before.
    """
    try:
        return os.open(path, OUTPUT_FLAGS, OUTPUT_MODE)
    except OSError as err:
        raise refusal(path, err) from err


def refusal(path: str, err: OSError) -> ExecutionError:
    """Return what is wrong with the output file *path*, which could not be made."""
    if err.errno == errno.EEXIST:
        return ExecutionError(f"output file {path} exists: this attempt was begun before")
    kind = OutputUnavailable if err.errno in DISK_ERRORS else ExecutionError
    return kind(f"output file {path}: {err.strerror}")


def never_started(path: str) -> bool:
    """Tell whether the attempt with this output file certainly never began, and will not unless we let it.

    The file is made by the attempt itself, exclusively, before anything else of it runs. A link to nowhere in
    its place bars even a start that is still under way in a dying worker, and cannot be taken for an output:
    the answer stays the same, however often (and by however many workers) it is asked. :func:`unbar` takes it
    away. Attempts whose output is discarded leave no such proof.
    """
    try:
        os.symlink(_BAR, path)
    except FileExistsError:
        return os.path.islink(path)
    except OSError:  # a full disk, or no such directory: then an attempt cannot make its file either
        return not os.path.lexists(path)
    return True


def unbar(path: str) -> None:
    """Let the attempt begin that :func:`never_started` barred; raises ``OSError``."""
    if os.path.islink(path):
        os.unlink(path)


def size_of(path: str | None) -> int | None:
    """Return the size of an output file, ``None`` where there is none."""
    if path is None:
        return None
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return None if stat.S_ISLNK(status.st_mode) else status.st_size


def note(lost: int) -> bytes:
    """Return the line that stands where *lost* bytes were left out."""
    return f"\n… {lost} bytes left out …\n".encode()


def chunks(path: str, offset: int = 0) -> Iterator[bytes]:
    """Yield what is in an output file from *offset* on, without the hole of one that is still written.

    Raises ``OSError`` where it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while True:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole, or the end; EINVAL: no holes here
                start = offset
            if start - offset >= BLOCK:
                yield note(start - offset)
            data = os.pread(descriptor, _CHUNK, start)
            if not data:
                return
            yield data
            offset = start + len(data)
    finally:
        os.close(descriptor)


def trim(descriptor: int, limit: int) -> int:
    """Free the space of the middle of a file that is being written; return the file's size.

    Keeps at least the first and the last half of *limit* bytes.
    """
    size = os.fstat(descriptor).st_size
    head = limit // 2
    start = -(-(head + _COUNT) // BLOCK) * BLOCK
    end = (size - (limit - head)) // BLOCK * BLOCK
    if end - start < SLACK:
        return size
    if not _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, end - start):
        # No holes on this file system: then the end must go. What is printed from now on follows.
        lost = _cut_out_so_far(descriptor, head) + size - start
        os.ftruncate(descriptor, start)
        _count(descriptor, head, lost)
        return start
    if end - start >= _CUT_OUT:
        lost = _cut_out_so_far(descriptor, head) + end - start
        if _fallocate(descriptor, _COLLAPSE_RANGE, start, end - start):
            _count(descriptor, head, lost)
            return size - (end - start)
    return size


def finish(path: str, limit: int) -> int | None:
    """Bring an output file that nobody prints to any more into its final form; return its size."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return size_of(path)
    try:
        size = os.fstat(descriptor).st_size
        if size <= limit + _COUNT:
            return size  # a cut would not make it shorter
        head = limit // 2
        tail = size - (limit - head)
        gap = note(_cut_out_so_far(descriptor, head) + size - limit)
        _write(descriptor, gap, head)
        at = head + len(gap)
        while data := os.pread(descriptor, _CHUNK, tail):
            _write(descriptor, data, at)
            tail += len(data)
            at += len(data)
        os.ftruncate(descriptor, at)
        return at
    finally:
        os.close(descriptor)


def is_written(path: str) -> bool:
    """Tell whether any process still has the file open for writing; ``False`` where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # The kernel grants a read lease only on a file that has no writers.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return False
    finally:
        os.close(descriptor)
    return False


def _cut_out_so_far(descriptor: int, head: int) -> int:
    match = _COUNTED.fullmatch(os.pread(descriptor, _COUNT, head))
    return 0 if match is None else int(match[1])


def _count(descriptor: int, head: int, lost: int) -> None:
    text = f"\n... {lost:>20} bytes left out so far ..."
    _write(descriptor, f"{text:<{_COUNT - 1}}\n".encode("ascii"), head)


def _write(descriptor: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def _fallocate(descriptor: int, mode: int, start: int, length: int) -> bool:
    call = _libc_fallocate()
    return call is not None and call(descriptor, mode, start, length) == 0


@cache
def _libc_fallocate() -> Any:
    libc = ctypes.CDLL(None)
    for name in ("fallocate64", "fallocate"):
        with contextlib.suppress(AttributeError):
            call = getattr(libc, name)
            call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
            return call
    return None

"""Outputs of attempts: where their files lie, and a piece of one, read beside whoever is still writing it."""

from __future__ import annotations

import errno
import os
import stat

from echosched.hashing import blake2b

OUTPUT_CHUNK = 64 * 1024
"""Bytes of a piece, where nobody asks for another size."""


RUNS_PER_DIRECTORY = 1000


def output_file(directory: str, run: int, attempt: int) -> str:
    """Return the path of an attempt's output below *directory* (``runs/``), whether it exists or not."""
    return f"{directory}/{run // RUNS_PER_DIRECTORY:03d}/{run}.{attempt}.log"


def spare_directories(directory: str) -> list[str]:
    """Return where outputs may go while no file can be made in *directory*: in memory, or on another disk."""
    name = blake2b(os.path.abspath(directory).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return [f"{place}/echosched-{name}" for place in ("/dev/shm", "/tmp")]  # noqa: S108  (whose it is, is looked at)


def find_output(directory: str, run: int, attempt: int) -> str:
    """Return the path of an attempt's output, wherever it is; where it would be, if it is nowhere."""
    usual = output_file(directory, run, attempt)
    if not os.path.lexists(usual):
        for spare in spare_directories(directory):
            path = f"{spare}/{run}.{attempt}.log"
            if os.path.isfile(path) and is_theirs(spare, directory):
                return path
    return usual


def is_theirs(spare: str, directory: str) -> bool:
    """Tell whether *spare*, which lies where everybody may make one, is of those whose outputs *directory* has."""
    try:
        found = os.lstat(spare)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.stat(directory).st_uid
    except OSError:
        return False


def read_piece(path: str | None, offset: int, limit: int) -> tuple[bytes, int, int]:
    """Return the bytes, where they begin, and the file's size; nothing for a file that does not exist."""
    if path is None:
        return b"", 0, 0
    try:
        with open(path, "rb", opener=_no_links) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            start = max(size + offset, 0) if offset < 0 else min(offset, size)
            if start >= size:
                return b"", start, size
            # A job past its output_limit has a hole in the middle of its file: it is stepped over.
            start = os.lseek(descriptor, start, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            return os.pread(descriptor, min(limit, end - start), start), start, size
    except FileNotFoundError:
        return b"", 0, 0
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but hole to the end
            return b"", size, size
        if error.errno == errno.ELOOP:  # the bar in place of an output that never was
            return b"", 0, 0
        raise


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def whole_characters(data: bytes) -> bytes:
    """Leave an unfinished UTF-8 character at the end for the next piece."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # a continuation byte: the character began earlier
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back and len(data) > back else data
    return data

"""What SQLite's error codes mean for a scheduler: wait, set aside, refuse, or a bug of ours."""

from __future__ import annotations

import sqlite3
from typing import Any

from echosched.errors import StoreCorrupt, StoreError, StoreUnavailable

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full (free some space)",
    sqlite3.SQLITE_IOERR: "an input/output error (check the disk and the kernel's log)",
    sqlite3.SQLITE_READONLY: "it cannot be written (check the file's rights and whether the filesystem is read-only)",
    sqlite3.SQLITE_BUSY: "another program holds its lock (end that program's transaction)",
    sqlite3.SQLITE_LOCKED: "another program holds its lock (end that program's transaction)",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened (check the directory, its rights and the disk's space)",
    sqlite3.SQLITE_PERM: "permission denied (check the file's owner and rights)",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "its locks do not settle (is another program using it heavily?)",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
_BROKEN = {
    sqlite3.SQLITE_CORRUPT: "its pages are damaged",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database any more",
}


class CommitUnclear(StoreUnavailable):
    """A commit that failed on its way to the disk, and may be found whole all the same.

    What reached the log is valid there: whoever opens the database anew finds it. *answer* is what the caller
    would have been told.
    """

    def __init__(self, message: str, answer: Any) -> None:
        super().__init__(message)
        self.answer = answer


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of *error* (0 where Python itself refused)."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether *error* says that the disk has no room left."""
    return primary_code(error) == sqlite3.SQLITE_FULL


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """Return what *error* means for the database at *path*, in a line for the operator.

    ``StoreUnavailable``: an outside fault that may pass. ``StoreCorrupt``: the file is damaged.
    A plain ``StoreError`` is a mistake of the program.
    """
    code = primary_code(error)
    detail = getattr(error, "sqlite_errorname", "")
    detail = f" [{detail}]" if detail else ""
    if code in _BROKEN:
        return StoreCorrupt(f"{path}: {_BROKEN[code]}: {error}{detail}")
    if code in _REASONS:
        return StoreUnavailable(f"{path}: {_REASONS[code]}{detail}")
    return StoreError(f"{path}: {error}{detail}")


def wants_new_connection(error: sqlite3.Error) -> bool:
    """Tell whether the connection that raised *error* is better closed and opened again.

    After an I/O error nobody knows what the kernel kept of it, and a file system that was remounted
    or a file that was replaced is only seen through a new descriptor.
    """
    return primary_code(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, 0)

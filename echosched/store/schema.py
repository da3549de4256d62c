"""Opening the database file: what may be touched, how it is created, how it is migrated up.

Order matters here. The file is judged through a read-only connection before anything can write to
it: what is not a SQLite database, belongs to another program or has a newer schema than this
program knows is refused and left exactly as it was. Only then is it opened for writing, copied
aside if a migration is due, and migrated in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from echosched.errors import StoreError, StoreUnavailable, StoreUnusable
from echosched.store.faults import primary_code, translate
from echosched.store.queries import SQL_DIRECTORY

APPLICATION_ID = 0x45636865  # "Eche" in the file's header: tells our databases from other programs'
FILE_MODE = 0o640
_SETTLE_SECONDS = 0.02
_SMALLEST_PAGE = 512


def migrations() -> tuple[str, ...]:
    """Return the steps from an empty database to the newest schema; the n-th leads to version n."""
    return tuple(path.read_text("utf-8") for path in sorted(SQL_DIRECTORY.glob("schema_*.sql")))


def connect(path: Path, mode: str, *, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection in autocommit, usable from one thread at a time.

    *mode* is ``rw``, ``ro`` or ``immutable`` (read without locks and shared memory: only for a file
    that nobody writes). Never creates a file.
    """
    question = "immutable=1&mode=ro" if mode == "immutable" else f"mode={mode}"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{question}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,  # opened, used and closed by one thread, but not always the same
        cached_statements=256,
    )
    try:
        connection.execute("PRAGMA cell_size_check = ON")  # notice damaged pages early
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_if_missing(path: Path) -> None:
    """Make an empty file of mode 0640 where none is; refuse symbolic links and what is no plain file.

    The file is looked at, not opened: closing a second descriptor of it would drop the locks that
    SQLite holds on it in this process (POSIX locks belong to the process, not to the descriptor).
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, FILE_MODE)
        except FileExistsError:  # somebody was quicker; their file is judged like any other
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise StoreUnavailable(
                f"{path}: cannot be created: {error.strerror} (check the directory)"
            ) from error
        else:
            with contextlib.suppress(OSError):  # a filesystem without modes is no reason to fail
                os.fchmod(descriptor, FILE_MODE)
            os.close(descriptor)
            return
    except OSError as error:
        raise StoreUnavailable(f"{path}: cannot be looked at: {error.strerror}") from error
    if stat.S_ISLNK(mode):
        raise StoreUnusable(
            f"{path}: is a symbolic link, which is not followed (give the real path with --db)"
        )
    if not stat.S_ISREG(mode):
        raise StoreUnusable(f"{path}: is not a plain file (give another path with --db)")


def judge(path: Path, newest: int, *, busy_seconds: float) -> int:
    """Return the schema version of the existing file at *path* (0: empty); it is only read.

    Raises ``StoreUnusable`` for what must not be touched.
    """
    cure = "move it away, or give another path with --db"
    no_database = f"{path}: is not a SQLite database; nothing was changed ({cure})"
    try:
        size = os.stat(path).st_size
        if size == 0:
            return 0
        if size < _SMALLEST_PAGE:  # SQLite would take it for an empty file, and fill it
            raise StoreUnusable(no_database)
        if reading_mode(path) == "immutable":
            # What fails here may be a file that another process is just creating: look again with locks.
            with contextlib.suppress(sqlite3.Error):
                return _version_at(path, newest, "immutable", busy_seconds)
        return _version_at(path, newest, "ro", busy_seconds)
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise StoreUnusable(no_database) from error
        raise translate(error, str(path)) from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: cannot be looked at: {error.strerror}") from error


def _version_at(path: Path, newest: int, mode: str, busy_seconds: float) -> int:
    with contextlib.closing(connect(path, mode, busy_seconds=busy_seconds)) as connection:
        return version_of(connection, path, newest)


def reading_mode(path: Path) -> str:
    """Return how to read *path* without leaving anything behind.

    Without a log nobody has the database open, and it can be read as it lies there; opened in the
    ordinary way, even for reading, SQLite would make a log and a shared-memory file and leave them.
    """
    try:
        return "ro" if os.stat(f"{path}-wal").st_size else "immutable"
    except FileNotFoundError:
        return "immutable"


def connect_alone(path: Path) -> sqlite3.Connection:
    """Return a connection for one read where the ordinary way fails: no room for the shared memory, say.

    With an exclusive lock SQLite keeps the log's index in its own memory; without a log the file is read
    as it lies there, which also works where nothing at all may be written.
    """
    if reading_mode(path) == "immutable":
        return connect(path, "immutable", busy_seconds=0)
    connection = connect(path, "rw", busy_seconds=0)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def version_of(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """Return the schema version that *connection* sees; refuse foreign databases and newer schemas."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreUnusable(
            f"{path}: is another program's database; nothing was changed (give another path with --db)"
        )
    if version > newest:
        raise StoreUnusable(
            f"{path}: has schema {version}, and this program knows only up to {newest}; nothing was changed "
            "(upgrade EchoSched, or restore the copy that the upgrade had set aside)"
        )
    return version


def open_for_writing(
    path: Path, steps: Sequence[str], stamp: str, *, again: bool, busy_seconds: float
) -> sqlite3.Connection:
    """Return the writing connection to *path*, created or migrated up as needed.

    WAL, ``synchronous=FULL``: what was committed survives a power cut. *stamp* names the copy that is
    set aside before a migration. When it is opened *again* in one life it must be there: an empty
    directory is more likely a disk that is not mounted than the wish for a new database.
    """
    if again and not _holds_something(path):
        raise StoreUnavailable(f"{path}: it has vanished (mount its disk, or restart the daemon)")
    create_if_missing(path)
    judge(path, len(steps), busy_seconds=busy_seconds)
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, "rw", busy_seconds=busy_seconds)
        _use_wal(connection, path, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        # The reader thread checkpoints after bursts; this is only the net below it.
        connection.execute("PRAGMA wal_autocheckpoint = 8000")
        connection.execute("PRAGMA journal_size_limit = 33554432")
        connection.execute("PRAGMA cache_size = -8192")  # KiB, taken as needed
        migrate(connection, path, steps, stamp)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, str(path)) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def open_for_reading(path: Path, newest: int, *, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection that never writes to the database at *path*, which must exist in schema *newest*.

    Another process may be writing. The connection is good as long as :func:`reading_mode` stays the same.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: cannot be read: {error.strerror} (has a daemon run here?)"
        ) from error
    if not stat.S_ISREG(mode):
        raise StoreUnusable(f"{path}: is not a plain file (give another path with --db)")
    version = judge(path, newest, busy_seconds=busy_seconds)
    if version != newest:
        raise StoreUnusable(
            f"{path}: has schema {version}, this program reads {newest} (start the daemon once to migrate it)"
        )
    return connect(path, reading_mode(path), busy_seconds=busy_seconds)


def _holds_something(path: Path) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def migrate(connection: sqlite3.Connection, path: Path, steps: Sequence[str], stamp: str) -> Path | None:
    """Bring the schema up to ``len(steps)`` in one transaction; return the copy set aside, if one was made."""
    if version_of(connection, path, len(steps)) == len(steps):
        return None
    copy = None
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection, path, len(steps))  # again: another process may have been quicker
        if 0 < version < len(steps):
            copy = _copy_aside(path, dated(path, f"schema-{version}", stamp))
        for number in range(version + 1, len(steps) + 1):
            for statement in _statements(steps[number - 1]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return copy


def dated(path: Path, what: str, stamp: str) -> Path:
    """Return a name beside *path* that nothing has yet: ``PATH.WHAT-STAMP``, with a number if need be."""
    candidate, number = Path(f"{path}.{what}-{stamp}"), 1
    while os.path.lexists(candidate):
        number += 1
        candidate = Path(f"{path}.{what}-{stamp}.{number}")
    return candidate


def set_aside(path: Path, stamp: str) -> Path:
    """Rename the damaged database with its log and shared memory to a dated name; delete nothing.

    The log comes along under the name that SQLite expects beside the file, so that whoever repairs the
    file finds the last commits too.
    """
    aside = dated(path, "damaged", stamp)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def _use_wal(connection: sqlite3.Connection, path: Path, busy_seconds: float) -> None:
    # SQLite does not wait for its busy time-out here: two processes that create the file at once
    # would see "database is locked" without these tries.
    for tries_left in range(max(1, int(busy_seconds / _SETTLE_SECONDS)), -1, -1):
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or not tries_left:
                raise
            time.sleep(_SETTLE_SECONDS)
            continue
        if mode != "wal":
            raise StoreError(
                f"{path}: this filesystem cannot hold a write-ahead log (put the database on a local one)"
            )
        return


def _copy_aside(path: Path, copy: Path) -> Path:
    create_if_missing(copy)
    # Through a connection of its own: it sees what was committed, also what is still in the log.
    with (
        contextlib.closing(connect(path, "ro", busy_seconds=1)) as source,
        contextlib.closing(connect(copy, "rw", busy_seconds=1)) as target,
    ):
        source.backup(target)
    return copy


def _statements(script: str) -> list[str]:
    # Not executescript: it would commit the surrounding transaction first.
    statements, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements

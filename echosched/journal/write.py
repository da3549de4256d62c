"""Writing the journal: one JSON object a line, append-only, by several processes at once.

Events collect during one turn of the loop and go out as one ``write`` of
whole lines on an O_APPEND descriptor, so the lines of supervisor and worker never mix. A write that
fails is kept (bounded) and done again with the next one; the scheduler never notices. Before each
write the path's inode is compared with the descriptor's (one ``stat``): a file that was rotated or
removed is left for the new one without any signal.

Lines are plain ASCII (everything else is escaped), so that no output of a job can move a terminal's
cursor through the journal.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import TYPE_CHECKING, Any

from echosched.clock import rfc3339
from echosched.errors import EchoschedError, PermissionRefused
from echosched.events import Event, SinkFailed

if TYPE_CHECKING:
    from pathlib import Path

Echo = int | Callable[[bytes], object] | None

_PENDING_BYTES = 4 * 1024 * 1024  # kept while the file cannot be written
_ECHO_BYTES = 256 * 1024  # kept while a terminal is stopped or a pipe is full
_PORTION = 40  # events of one turn of the loop: about half a ms
_CROWD = 32  # events within a tenth of a second, after which they are collected
_CROWD_WINDOW = timedelta(seconds=0.1)
_COLLECT_SECONDS = 0.05
_MOST_LOOKS = 10  # while they keep coming
_OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def _plain(value: object) -> Any:
    """Return a JSON-able form of *value*; the encoder asks only for what it does not know."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return str(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain, allow_nan=False).encode


# What the encoder would write for the plain types, without asking for more: in a burst the three lines of
# each run would otherwise be a quarter of the loop's work. Exact types only: a subclass may print otherwise.
_PLAIN: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    bool: {False: "false", True: "true"}.__getitem__,
    type(None): lambda value: "null",
    datetime: lambda value: f'"{rfc3339(value)}"',
    float: lambda value: float.__repr__(value) if isfinite(value) else _encode(value),
}
_heads: dict[type[Event], list[tuple[str, str]] | None] = {}


def _head(kind: type[Event]) -> list[tuple[str, str]] | None:
    """Return the fields of *kind*, each with the text before its value; ``None`` if it writes itself another way."""
    if kind.as_dict is not Event.as_dict:
        return None
    names = [field.name for field in fields(kind) if field.name != "ts"]
    return [(name, f",{encode_basestring_ascii(name)}:") for name in names]


def _text(event: Event) -> str:
    kind = type(event)
    try:
        head = _heads[kind]
    except KeyError:
        head = _heads[kind] = _head(kind)
    if head is None:
        return _encode(event.as_dict())
    parts = [f'{{"ts":"{rfc3339(event.ts)}","event":{encode_basestring_ascii(event.event)}']
    for name, before in head:
        value = getattr(event, name)
        parts.append(before)
        parts.append(_PLAIN.get(type(value), _encode)(value))
    return "".join(parts) + "}"


def line(event: Event) -> bytes:
    """Return the journal's line for *event*, newline included. Never raises: an odd event becomes a ``sink_failed``."""
    try:
        return _text(event).encode() + b"\n"
    except Exception as err:  # noqa: BLE001 - an event's own content must not reach the scheduler
        odd = SinkFailed(ts=event.ts, sink="journal", reason=f"{event.event}: {type(err).__name__}: {err}")
        return _encode(odd.as_dict()).encode() + b"\n"


class _Pending:
    """Whole lines waiting to be written, at most *limit* bytes; the oldest go first, and are counted."""

    def __init__(self, limit: int) -> None:
        self.lines: deque[bytes] = deque()
        self.size = 0
        self.lost = 0
        self._limit = limit

    def add(self, new: bytes) -> None:
        """Keep *new* lines; beyond the limit the oldest are lost, and counted."""
        self.lines.append(new)
        self.size += len(new)
        while self.size > self._limit and len(self.lines) > 1:
            self.size -= len(self.lines.popleft())
            self.lost += 1

    def written(self, count: int) -> int:
        """Forget the first *count* bytes as far as they are whole lines; return what is left of *count*."""
        while self.lines and count >= len(self.lines[0]):
            first = len(self.lines.popleft())
            count -= first
            self.size -= first
        return count


class Journal:
    """An :class:`~echosched.protocols.EventSink` that appends to the file at *path* (0640, never through a symlink).

    *echo*: a descriptor or a callable that gets the same lines (the foreground's stdout); a stopped
    terminal or a full pipe there delays nobody. *call_soon*: a loop's ``call_soon``; with it events
    of one turn are written together at its end and :meth:`emit` belongs to that loop's thread; without
    it each event is written at once. With the loop's *call_later* too, events that come in crowds are
    collected until no more come, for 0.5 s at most: in a burst of starts each write would take from them what
    it costs. *lenient*: a file
    that cannot be opened now is tried again with every write instead of being raised.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        echo: Echo = None,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
        lenient: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self._echo = echo
        self._call_soon = call_soon
        self._call_later = call_later
        self._window_at: datetime | None = None
        self._in_window = 0
        self._events: list[Event] = []
        self._scheduled = False
        self._looks = 0  # at a crowd that goes on
        self._looked_at = 0
        self._fd = -1
        self._inode: tuple[int, int] | None = None
        self._failing: str | None = None
        self._torn = False
        self._told_lost = 0
        self._last: datetime | None = None
        self._file = _Pending(_PENDING_BYTES)
        self._screen = _Pending(_ECHO_BYTES)
        try:
            self._open()
        except OSError as err:
            if not lenient:
                raise _refusal(self.path, err) from err
            self._failing = _reason(err)

    @property
    def failing(self) -> str | None:
        """Return why the last write failed, ``None`` while all is well."""
        return self._failing

    @property
    def lost(self) -> int:
        """Return how many lines did not fit into the buffer while the file could not be written."""
        return self._file.lost

    def emit(self, event: Event) -> None:
        """Take *event*; it is in the file when this turn of the loop ends (at once without a loop)."""
        self._events.append(event)
        if self._call_soon is None:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            try:
                if self._call_later is not None and self._is_crowd(event.ts):
                    self._looks = self._looked_at = 0
                    self._call_later(_COLLECT_SECONDS, self._look)
                else:
                    self._call_soon(self._turn)
            except RuntimeError:  # the loop is closed: what is told now is told at once
                self._call_soon = None
                self.flush()

    def _is_crowd(self, at: datetime) -> bool:
        if self._window_at is None or not timedelta(0) <= at - self._window_at < _CROWD_WINDOW:
            self._window_at, self._in_window = at, 0
        return self._in_window > _CROWD

    def _look(self) -> None:
        """Write what was collected, unless the crowd goes on."""
        come, self._looked_at = len(self._events) - self._looked_at, len(self._events)
        self._looks += 1
        if come > _CROWD and self._call_later is not None and self._looks < _MOST_LOOKS:
            self._call_later(_COLLECT_SECONDS, self._look)
        else:
            self._turn()

    def flush(self) -> None:
        """Write all that is pending as far as possible; never raises."""
        self._scheduled = False
        events, self._events = self._events, []
        self._write(events)

    def _turn(self) -> None:
        """Write a portion: a burst of thousands of events must not hold up the loop by encoding them at once."""
        self._scheduled = False
        portion, self._events = self._events[:_PORTION], self._events[_PORTION:]
        self._write(portion)
        if self._events and self._call_soon is not None:
            self._scheduled = True
            self._call_soon(self._turn)

    def _write(self, events: list[Event]) -> None:
        self._in_window += len(events)
        for event in events:
            encoded = line(event)
            self._last = event.ts
            self._file.add(encoded)
            if self._echo is not None:
                self._screen.add(encoded)
        if self._screen.lines:
            self._write_echo()
        if not self._file.lines:
            return
        try:
            self._follow_path()
            self._write_file()
        except OSError as err:
            self._failing = _reason(err)
        else:
            self._failing = None

    def reopen(self) -> None:
        """Open the path anew (after a rotation); on failure the old file goes on. Never raises."""
        self.flush()
        try:
            self._open()
        except OSError as err:
            self._failing = _reason(err)

    def close(self) -> None:
        """Write what is pending, one last try, and close."""
        self.flush()
        self._call_soon = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._inode = -1, None

    def _open(self) -> None:
        new = os.open(self.path, _OPEN_FLAGS, 0o640)
        found = os.fstat(new)
        if stat.S_ISDIR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            os.close(new)
            raise OSError(errno.EINVAL, "not a file that can be appended to")
        old, self._fd = self._fd, new
        self._inode = (found.st_dev, found.st_ino)
        self._torn = False
        if old >= 0:
            os.close(old)

    def _follow_path(self) -> None:
        """Leave a file that was renamed or removed under us; one ``stat`` a batch is all this costs."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
            moved = (found.st_dev, found.st_ino) != self._inode
        except OSError:
            moved = True
        if not moved:
            return
        try:
            self._open()
        except OSError:
            # The renamed file still takes lines, and tail() finds them there: better than a buffer.
            if self._fd < 0:
                raise

    def _write_file(self) -> None:
        if self._file.lost > self._told_lost:
            self._tell_lost()
        while self._file.lines:
            batch = b"".join(self._file.lines)
            # A torn line that could not be cut off is closed first and then written again as a whole.
            count = os.write(self._fd, b"\n" + batch if self._torn else batch)
            if self._torn and count:
                self._torn, count = False, count - 1
            rest = self._file.written(count)
            if rest:
                # The same bytes would fit again right away, and no more: not before the next flush.
                self._cut_off(rest)
            if rest or not count:
                raise OSError(errno.ENOSPC, "only a part of a line could be written")

    def _cut_off(self, count: int) -> None:
        """Remove the *count* bytes of an incomplete line after a short write (a full disk, mostly).

        Only while they are still the file's end: another writer's lines behind them stay untouched.
        """
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        if os.fstat(self._fd).st_size == end:
            os.ftruncate(self._fd, end - count)
        else:
            self._torn = True

    def _tell_lost(self) -> None:
        lost, self._told_lost = self._file.lost - self._told_lost, self._file.lost
        if self._last is not None:
            reason = f"{lost} lines lost while the journal could not be written: {self._failing}"
            self._file.lines.appendleft(line(SinkFailed(ts=self._last, sink="journal", reason=reason)))
            self._file.size += len(self._file.lines[0])

    def _write_echo(self) -> None:
        """Write to the screen what it takes without blocking: a line at a time, each under PIPE_BUF."""
        echo = self._echo
        try:
            if callable(echo):
                while self._screen.lines:
                    echo(self._screen.lines[0])
                    self._screen.written(len(self._screen.lines[0]))
                return
            while echo is not None and self._screen.lines and _writable(echo):
                batch = self._batch(select.PIPE_BUF)
                rest = self._screen.written(os.write(echo, batch))
                if rest:
                    first = self._screen.lines.popleft()
                    self._screen.lines.appendleft(first[rest:])
                    self._screen.size -= rest
        except BlockingIOError:
            return
        except Exception:  # noqa: BLE001 - the screen went away (closed pipe, hung up terminal): the file goes on
            self._echo = None
            self._screen.lines.clear()
            self._screen.size = 0

    def _batch(self, limit: int) -> bytes:
        """Return as many whole lines as fit into *limit* bytes, or the beginning of the first."""
        taken: list[bytes] = []
        size = 0
        for pending in self._screen.lines:
            if size + len(pending) > limit:
                break
            taken.append(pending)
            size += len(pending)
        return b"".join(taken) if taken else self._screen.lines[0][:limit]


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(mask & (select.POLLOUT | select.POLLERR | select.POLLHUP) for _, mask in poll.poll(0))


def _reason(err: OSError) -> str:
    return err.strerror or str(err)


def _refusal(path: str, err: OSError) -> EchoschedError:
    if err.errno == errno.ELOOP:
        return EchoschedError(f"{path}: is a symbolic link (name the journal's real path with --log)")
    message = f"{path}: cannot open the journal: {_reason(err)} (another path: --log)"
    return PermissionRefused(message) if isinstance(err, PermissionError) else EchoschedError(message)

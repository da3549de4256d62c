"""Time zones as tables of UTC transitions.

A schedule is a set of wall-clock times; a zone says which UTC instants show them. Everything in this
room works on whole microseconds since the Unix epoch, so a zone is three parallel lists:

- ``starts[i]``: the UTC instant at which segment *i* begins (one more entry closes the last segment);
- ``offsets[i]``: what to add to UTC there to get the wall clock;
- ``records[i]``: the furthest wall-clock time (exclusive) that was shown *before* segment *i*.

``records`` is the idea that makes daylight saving simple. The wall clock jumps forward (a gap) or back
(a repeat); its running maximum only ever grows. "Once, at the first occurrence, or at the end of the
gap that swallowed it" is the instant at which that maximum reaches the wanted time, and one bisection
of ``records`` finds it, whatever the zone did: half hours, whole days, midnight gaps.

The tables come from the same TZif files that :mod:`zoneinfo` reads (format: RFC 8536) and follow the
rule in their footer as far as somebody asks.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from datetime import date
from struct import error as struct_error
from struct import unpack_from
from threading import Lock

from echosched.errors import ScheduleError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()
MAX_MICROS = (3_652_059 - EPOCH_ORDINAL + 1) * DAY - 1  # the last instant of year 9999
MIN_MICROS = (2 - EPOCH_ORDINAL) * DAY  # year 1, a day in, so that no offset leads out of the calendar
_NEVER = 1 << 62
_FIRST_HORIZON = 2080  # rules are followed to here at first; asking for more extends the table

_EXTENDING = Lock()

Table = tuple[list[int], list[int], list[int]]
"""``starts``, ``offsets``, ``records``; swapped as a whole, so threads may read while one extends."""


class Zone:
    """One time zone's transitions, shared by every schedule in it."""

    __slots__ = ("_rule", "_through", "name", "table")

    def __init__(
        self, name: str, first_offset: int, transitions: list[tuple[int, int]], rule: Rule | None
    ) -> None:
        """Build the table from *transitions* (UTC seconds, new offset in seconds) and the *rule* after them."""
        self.name = name
        self._rule = rule
        starts, offsets, records = [-_NEVER], [first_offset * SECOND], [-_NEVER]
        self.table: Table = (starts, offsets, records)
        for at, offset in transitions:
            _append(starts, offsets, records, at * SECOND, offset * SECOND)
        starts.append(_NEVER)
        self._through = 0
        if rule is not None and rule.changes:
            last = transitions[-1][0] if transitions else 0
            self._through = date.fromordinal(last // 86_400 + EPOCH_ORDINAL).year - 1
            self._follow_rule(max(_FIRST_HORIZON, self._through + 2))

    @property
    def changes(self) -> bool:
        """Tell whether its wall clock still shifts, by a rule without an end."""
        return self._through > 0

    def reach(self, micros: int) -> Table:
        """Return a table whose last segment ends after *micros*, extending it when needed."""
        if self.table[0][-1] <= micros:
            with _EXTENDING:
                if self.table[0][-1] <= micros:  # another thread may have been faster
                    self._follow_rule(
                        date.fromordinal(min(micros, MAX_MICROS) // DAY + EPOCH_ORDINAL).year + 25
                    )
        return self.table

    def offset_at(self, micros: int) -> int:
        """Return the offset from UTC (microseconds) at a UTC instant."""
        starts, offsets, _ = self.reach(micros)
        return offsets[bisect_right(starts, micros) - 1]

    def showing(self, local: int) -> list[int]:
        """Return the UTC instants at which the wall clock shows *local*: none in a gap, two in a repeat."""
        starts, offsets, _ = self.reach(local + 2 * DAY)
        low = bisect_right(starts, local - 2 * DAY) - 1
        high = min(bisect_right(starts, local + 2 * DAY), len(offsets))
        return [
            local - offsets[i] for i in range(low, high) if starts[i] <= local - offsets[i] < starts[i + 1]
        ]

    def reaching(self, local: int) -> int:
        """Return the UTC instant at which the wall clock first shows *local* or jumps past it."""
        starts, offsets, records = self.reach(local + 2 * DAY)
        segment = bisect_right(records, local) - 1
        return max(starts[segment], local - offsets[segment])

    def shifts(self, begin: int, end: int) -> list[tuple[int, int, int, int]]:
        """Return ``(at, record, before, after)`` for each transition in ``[begin, end)``.

        *record* is the wall-clock time reached so far, *before* and *after* are the wall clock just
        before and at the transition: ``after > record`` is a gap, ``after < before`` a repeat.
        """
        starts, offsets, records = self.reach(end)
        low, high = bisect_right(starts, begin - 1), bisect_right(starts, end - 1)
        return [
            (starts[i], records[i], starts[i] + offsets[i - 1], starts[i] + offsets[i])
            for i in range(max(low, 1), min(high, len(offsets)))
        ]

    def _follow_rule(self, last_year: int) -> None:
        rule = self._rule
        if rule is None:
            return
        starts, offsets, records = (list(column) for column in self.table)
        starts.pop()
        last_year = min(last_year, 9998)
        for year in range(self._through + 1, last_year + 1):
            for at, offset in rule.transitions(year):
                if at * SECOND > starts[-1]:
                    _append(starts, offsets, records, at * SECOND, offset * SECOND)
        # Two days short of the year's end: east of Greenwich the next year's first change may lie there.
        # Beyond year 9998 nothing is followed: the end of the calendar is near.
        known_to = (date(last_year + 1, 1, 1).toordinal() - EPOCH_ORDINAL - 2) * DAY
        starts.append(_NEVER if last_year == 9998 else max(known_to, starts[-1] + 1))
        self._through = last_year
        self.table = (starts, offsets, records)


def _append(starts: list[int], offsets: list[int], records: list[int], at: int, offset: int) -> None:
    """Add a segment, unless the wall clock does not change there (only a name or a flag did)."""
    if offset == offsets[-1]:
        return
    records.append(max(records[-1], at + offsets[-1]))
    starts.append(at)
    offsets.append(offset)


# ── the rule after the last recorded transition ───────────────────────────────────────────────

_NAME = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)"
_TIME = r"[+-]?\d{1,3}(?::\d{1,2}(?::\d{1,2})?)?"
_RULE = re.compile(
    rf"{_NAME}(?P<std>{_TIME})(?:{_NAME}(?P<dst>{_TIME})?,(?P<start>[^,/]+)(?:/(?P<start_time>{_TIME}))?"
    rf",(?P<end>[^,/]+)(?:/(?P<end_time>{_TIME}))?)?",
    re.ASCII,
)


class Rule:
    """A POSIX ``TZ`` rule such as ``EST5EDT,M3.2.0,M11.1.0`` (offsets grow westward there)."""

    __slots__ = ("_dst", "_end", "_end_time", "_start", "_start_time", "_std", "changes")

    def __init__(self, text: str) -> None:
        """Take the rule apart; raises ``ValueError`` for what is not one."""
        match = _RULE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a time zone rule")
        self._std = -_seconds(match["std"])
        self.changes = match["start"] is not None
        if self.changes:
            self._dst = -_seconds(match["dst"]) if match["dst"] else self._std + 3_600
            self._start, self._end = match["start"], match["end"]
            self._start_time = _seconds(match["start_time"] or "2")
            self._end_time = _seconds(match["end_time"] or "2")

    def transitions(self, year: int) -> list[tuple[int, int]]:
        """Return the year's changes as (UTC seconds, new offset), in order."""
        start = _rule_day(self._start, year) * 86_400 + self._start_time - self._std
        end = _rule_day(self._end, year) * 86_400 + self._end_time - self._dst
        return sorted([(start, self._dst), (end, self._std)])


def _seconds(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    parts = [int(part) for part in text.lstrip("+-").split(":")] + [0, 0]
    return sign * (parts[0] * 3_600 + parts[1] * 60 + parts[2])


def _rule_day(text: str, year: int) -> int:
    """Return the epoch day on which a rule's date falls in *year* (``Mm.w.d``, ``Jn`` or ``n``)."""
    first = date(year, 1, 1).toordinal() - EPOCH_ORDINAL
    if text.startswith("M"):
        month, week, weekday = (int(part) for part in text[1:].split("."))
        opening = date(year, month, 1)
        day = 1 + (weekday - opening.isoweekday()) % 7 + (week - 1) * 7
        length = (date(year + month // 12, month % 12 + 1, 1) - opening).days
        return opening.toordinal() - EPOCH_ORDINAL + (day - 7 if day > length else day) - 1
    if text.startswith("J"):  # 1–365, February 29 is never counted
        number = int(text[1:])
        leap = date(year, 12, 31).timetuple().tm_yday == 366
        return first + number - 1 + (1 if leap and number >= 60 else 0)
    return first + int(text)


# ── reading TZif ──────────────────────────────────────────────────────────────────────────────

_ZONES: dict[str, Zone] = {"UTC": Zone("UTC", 0, [], None)}
_VALID_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*)*", re.ASCII)


def find_zone(name: str) -> Zone | None:
    """Return the zone called *name* (as the zone database spells it), or ``None`` if there is none."""
    zone = _ZONES.get(name)
    if zone is None and isinstance(name, str) and len(name) < 100 and _VALID_NAME.fullmatch(name):
        data = _read(name)
        if data is not None:
            try:
                zone = _ZONES[name] = parse_tzif(name, data)
            except (ValueError, LookupError, OverflowError, struct_error):
                return None
    return zone


def get_zone(name: str) -> Zone:
    """Return the zone called *name*; raises ``ScheduleError`` with the nearest name that exists."""
    zone = find_zone(name)
    if zone is None:
        from difflib import get_close_matches
        from zoneinfo import available_timezones

        near = get_close_matches(str(name)[:100], sorted(available_timezones()), n=1)
        hint = f"did you mean {near[0]}?" if near else "use a name such as Europe/Berlin, or UTC"
        raise ScheduleError(f"timezone: {str(name)[:100]!r}: unknown time zone ({hint})")
    return zone


def _read(name: str) -> bytes | None:
    from zoneinfo import TZPATH

    for directory in TZPATH:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                data = file.read()
            if data.startswith(b"TZif"):
                return data
    try:
        from importlib.resources import files

        resource = files("tzdata").joinpath("zoneinfo", *name.split("/"))
        return resource.read_bytes() if resource.is_file() else None
    except ModuleNotFoundError:
        return None


def parse_tzif(name: str, data: bytes) -> Zone:
    """Build a zone from the bytes of a TZif file; raises ``ValueError`` or ``LookupError`` for broken ones."""
    if data[:4] != b"TZif" or len(data) < 44:
        raise ValueError("not a TZif file")
    position, width = 0, 4
    if data[4:5] >= b"2":  # a second block with 64-bit times follows the old one
        isut, isstd, leaps, times, types, chars = unpack_from(">6L", data, 20)
        position, width = 44 + times * 5 + types * 6 + chars + leaps * 8 + isstd + isut, 8
    isut, isstd, leaps, times, types, chars = unpack_from(">6L", data, position + 20)
    position += 44
    end = position + times * (width + 1) + types * 6 + chars + leaps * (width + 4) + isstd + isut
    if len(data) < end or not types:
        raise ValueError("truncated TZif file")
    instants = unpack_from(f">{times}{'q' if width == 8 else 'l'}", data, position)
    indexes = data[position + times * width : position + times * (width + 1)]
    kinds = [unpack_from(">lbB", data, position + times * (width + 1) + 6 * i) for i in range(types)]
    # Before the first transition: the first kind that is not daylight saving, as zoneinfo has it.
    before = next((offset for offset, is_dst, _ in kinds if not is_dst), kinds[0][0])
    transitions = [(at, kinds[index][0]) for at, index in zip(instants, indexes, strict=True)]
    footer = data[end:].strip(b"\n").decode("ascii") if width == 8 else ""
    rule = Rule(footer) if footer else None
    if rule is not None and not transitions and not rule.changes:
        before = kinds[0][0]
    # Some files open with a transition at the beginning of time (-2**59 s); it is no shift of a wall clock.
    while transitions and transitions[0][0] * SECOND < MIN_MICROS:
        before = transitions.pop(0)[1]
    return Zone(name, before, transitions, rule)

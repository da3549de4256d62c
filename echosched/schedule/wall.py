"""Schedules of the wall clock: what cron and calendar expressions become.

The expression is compiled to bit sets (:mod:`~echosched.schedule.days` for days, one integer each for
hours and minutes). ``next_local`` finds the next match on the wall clock as if there were no daylight
saving; ``next_micros`` lays that over the zone. Two readings of the wall clock are needed:

- *follow*: every instant whose wall clock matches, twice in a repeated hour, never in a skipped one;
- *record* (job key ``dst``, the default for fixed times): each wall-clock time counts once, when the
  clock first reaches it, or jumps past it. See :mod:`~echosched.schedule.zones` for the trick.
"""

from __future__ import annotations

from bisect import bisect_right

from echosched.schedule.base import Timetable
from echosched.schedule.days import Days
from echosched.schedule.zones import DAY, HOUR, MAX_MICROS, MINUTE, SECOND, Zone

ALL_HOURS = (1 << 24) - 1
ALL_MINUTES = (1 << 60) - 1
_LONGEST_FOLD = 2 * DAY  # no zone ever turned its clocks back by more than a day and a bit
_PATIENCE = 400 * 366 * DAY


class Wall(Timetable):
    """Whole minutes of the wall clock.

    *star* says that the minute or the hour field starts with ``*``: such a schedule follows real time,
    as in Vixie and Debian cron. *cover* is how long a match lasts when it serves as an exception.
    """

    __slots__ = (
        "_fill",
        "_first",
        "_last",
        "_picky",
        "cover",
        "days",
        "dst",
        "follow",
        "hours",
        "minutes",
        "zone",
    )

    def __init__(
        self, text: str, zone: Zone, days: Days, hours: int, minutes: int, *, star: bool, dst: str = "once"
    ) -> None:
        """Compile; the bit sets must not be empty."""
        self.text, self.timezone, self.zone = text, zone.name, zone
        self.days, self.hours, self.minutes, self.dst = days, hours, minutes, dst
        self.follow = star or dst == "every"
        self._fill = dst == "once"
        self._picky = None if days.every else days
        self._first = _low(hours) * HOUR + _low(minutes) * MINUTE
        self._last = hours.bit_length() * 60 - 61 + minutes.bit_length()
        self.cover = MINUTE

    @property
    def seconds(self) -> Seconds:
        """Return which seconds of a matching minute match."""
        return ON_THE_MINUTE

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        starts, offsets, records = self.zone.table
        following = bisect_right(starts, after)
        try:
            offset = offsets[following - 1]
        except IndexError:  # past the end of the table
            if after > MAX_MICROS:
                return None
            self.zone.reach(after)
            return self.next_micros(after)
        low = after + 1 + offset
        if not self.follow and low < records[following - 1]:
            low = records[following - 1]
        local = self.next_local(low)
        if local is None:
            return None
        slot = local - offset
        if slot < starts[following]:
            return slot
        return self._follow(low, local, following) if self.follow else self._first_reached(local)

    def _first_reached(self, local: int) -> int | None:
        """Return when the clock first reaches *local*, or jumps past it and that counts."""
        give_up = local + _PATIENCE
        while local <= min(give_up, MAX_MICROS):
            starts, offsets, records = self.zone.reach(local + _LONGEST_FOLD)
            segment = bisect_right(records, local) - 1
            slot = local - offsets[segment]
            if slot >= starts[segment]:
                return slot
            if self._fill:
                return starts[segment]
            later = self.next_local(starts[segment] + offsets[segment])
            if later is None:
                return None
            local = later
        return None

    def _follow(self, low: int, match: int, segment: int) -> int | None:
        """Return the first instant from *segment* on that shows a match; *match* is the first from *low* on."""
        local: int | None = match
        give_up = match + _PATIENCE
        while local is not None and local <= min(give_up, MAX_MICROS):
            starts, offsets, records = self.zone.reach(local + _LONGEST_FOLD)
            opening = starts[segment] + offsets[segment]
            if opening < low or opening > local:
                # The clock went back behind where the search began, or jumped past the match.
                low = opening
                local = self.next_local(low)
                if local is None:
                    return None
            slot = local - offsets[segment]
            if slot < starts[segment + 1]:
                return slot
            if starts[segment + 1] + offsets[segment] > low + _LONGEST_FOLD:
                # No repeat can lead back behind *low* from here: go where the clock first reaches the match.
                segment = max(segment, bisect_right(records, local) - 2)
            segment += 1
        return None

    def next_local(self, low: int) -> int | None:
        """Return the first match at or after *low* on a wall clock that never shifts (microseconds)."""
        day, minute = divmod(-(-low // MINUTE), 1440)
        over = minute > self._last
        if over:  # the day's last match has passed: one look at the days instead of two
            day += 1
        if self._picky is not None:
            matching = self._picky.next(day)
            if matching != day or over:
                return None if matching is None else matching * DAY + self._first
        elif over:
            return day * DAY + self._first
        hour, minute = divmod(minute, 60)
        hours = self.hours >> hour
        if hours & 1:
            minutes = self.minutes >> minute
            if minutes:
                return day * DAY + hour * HOUR + (minute - 1 + (minutes & -minutes).bit_length()) * MINUTE
        hours >>= 1  # not empty: the last match is still ahead
        return day * DAY + (hour + (hours & -hours).bit_length()) * HOUR + self._first % HOUR


class FineWall(Wall):
    """Wall-clock times with a seconds field, or parts of seconds."""

    __slots__ = ("_seconds",)

    def __init__(
        self,
        text: str,
        zone: Zone,
        days: Days,
        hours: int,
        minutes: int,
        seconds: Seconds,
        *,
        star: bool,
        dst: str = "once",
    ) -> None:
        """Compile; no part may be empty."""
        super().__init__(text, zone, days, hours, minutes, star=star, dst=dst)
        self._seconds = seconds
        self._first += seconds.first
        self.cover = SECOND

    @property
    def seconds(self) -> Seconds:
        """Return which seconds of a matching minute match."""
        return self._seconds

    def next_local(self, low: int) -> int | None:
        """Return the first match at or after *low* on a wall clock that never shifts (microseconds)."""
        day, rest = divmod(low, DAY)
        matching = self.days.next(day)
        if matching != day:
            return None if matching is None else matching * DAY + self._first
        hour, rest = divmod(rest, HOUR)
        minute, rest = divmod(rest, MINUTE)
        if self.hours >> hour & 1:
            start = day * DAY + hour * HOUR
            if self.minutes >> minute & 1:
                second = self._seconds.next(rest)
                if second is not None:
                    return start + minute * MINUTE + second
            minutes = self.minutes >> (minute + 1)
            if minutes:
                return start + (minute + (minutes & -minutes).bit_length()) * MINUTE + self._seconds.first
        hours = self.hours >> (hour + 1)
        if hours:
            return day * DAY + (hour + (hours & -hours).bit_length()) * HOUR + self._first % HOUR
        matching = self.days.next(day + 1)
        return None if matching is None else matching * DAY + self._first


class Seconds:
    """Which microseconds of a minute match: *mask* for whole seconds, *parts* for finer ones.

    A part is (first, last, step) in microseconds; a step of 0 stands for the first alone.
    """

    __slots__ = ("first", "mask", "parts")

    def __init__(self, mask: int, parts: tuple[tuple[int, int, int], ...] = ()) -> None:
        """Keep them; one of the two must not be empty."""
        self.mask, self.parts = mask, parts
        firsts = [part[0] for part in parts]
        if mask:
            firsts.append(_low(mask) * SECOND)
        self.first = min(firsts)

    def next(self, low: int) -> int | None:
        """Return the first match at or after *low* within the minute."""
        best: int | None = None
        seconds = self.mask >> -(-low // SECOND)
        if seconds:
            best = (-(-low // SECOND) - 1 + (seconds & -seconds).bit_length()) * SECOND
        for first, last, step in self.parts:
            match = first
            if low > first:
                if not step:
                    continue
                match = first - (first - low) // step * step
                if match > last:
                    continue
            if best is None or match < best:
                best = match
        return best


def _low(mask: int) -> int:
    """Return the position of the lowest bit set."""
    return (mask & -mask).bit_length() - 1


ON_THE_MINUTE = Seconds(1)
EVERY_SECOND = Seconds(ALL_MINUTES)

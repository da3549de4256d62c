"""Which days match: a year as one bit set.

A rule for days (days of the month, weekdays, months) depends on a year only through the weekday of
January 1 and whether the year is leap. So there are fourteen kinds of year, and for each a rule is one
integer of 366 bits, made when first needed. The next matching day is then a shift and a lowest-set-bit
away, and a year without a match costs one look.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date

from echosched.schedule.zones import EPOCH_ORDINAL

_LENGTHS = (
    (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
)
_UNTIL_2100 = 47_482
_from_ordinal = date.fromordinal
_OFFSETS = tuple(tuple(sum(lengths[:m]) for m in range(12)) for lengths in _LENGTHS)
_SAME_WEEKDAY = sum(1 << 7 * week for week in range(54))
_ALL_DAYS = ((1 << 365) - 1, (1 << 366) - 1)
ALL_MONTHS = (1 << 12) - 1
ALL_WEEKDAYS = (1 << 7) - 1
ALL_DOM = (1 << 31) - 1
_LONG_MONTHS = sum(1 << month for month in range(12) if _LENGTHS[0][month] == 31)
_FEBRUARY = 1 << 1
_CYCLE = 400  # the calendar repeats after so many years: what has no match in them has none at all


class _Years(dict[int, tuple[int, int]]):
    """year → (epoch day of January 1, kind of year: 2 × weekday + leap), filled as years are asked for."""

    def __missing__(self, year: int) -> tuple[int, int]:
        first = date(year, 1, 1)
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        entry = self[year] = (first.toordinal() - EPOCH_ORDINAL, 2 * first.weekday() + leap)
        return entry


YEARS = _Years()


class Days:
    """A rule for days. Immutable once built, shared by every schedule that has the same one.

    Bit sets: *months* (bit 0 January), *dom* (bit 0 the 1st), *tail* (bit 0 the last day of the month,
    bit 1 the day before), *weekdays* (bit 0 Monday). *near* holds days of the month moved to the nearest
    weekday (0: the last one, cron's ``W``), *nth* pairs of weekday and ordinal (-1: the last). The month's
    side and the week's side must both match if *both*, else either. *years* is sorted, empty: every year.
    """

    __slots__ = (
        "_masks",
        "_stride",
        "both",
        "dom",
        "every",
        "months",
        "near",
        "nth",
        "tail",
        "weekdays",
        "years",
    )

    def __init__(
        self,
        *,
        months: int = ALL_MONTHS,
        dom: int = ALL_DOM,
        tail: int = 0,
        near: tuple[int, ...] = (),
        weekdays: int = ALL_WEEKDAYS,
        nth: tuple[tuple[int, int], ...] = (),
        both: bool = True,
        years: tuple[int, ...] = (),
    ) -> None:
        """Keep the rule; nothing is computed yet."""
        self.months, self.dom, self.tail, self.near = months, dom, tail, near
        self.weekdays, self.nth, self.both, self.years = weekdays, nth, both, years
        all_of_month, all_of_week = dom == ALL_DOM, weekdays == ALL_WEEKDAYS
        free = all_of_month and all_of_week if both else all_of_month or all_of_week
        self.every = free and months == ALL_MONTHS and not years
        # February 29 and nothing else: only every fourth year needs a look.
        leap_day = both and months == _FEBRUARY and dom == 1 << 28 and not (tail or near)
        self._stride = 4 if leap_day else 1
        self._masks: list[int | None] = [None] * 14

    def next(self, day: int) -> int | None:
        """Return the first matching epoch day at or after *day*, ``None`` if there is none."""
        if 0 <= day < _UNTIL_2100:
            year = 1970 + (4 * day + 2) // 1461  # every fourth year is leap here
        else:
            try:
                year = _from_ordinal(day + EPOCH_ORDINAL).year
            except (ValueError, OverflowError):
                if day > 0:
                    return None
                day, year = 1 - EPOCH_ORDINAL, 1
        first, kind = YEARS[year]
        left = (self._masks[kind] or self.mask(kind)) >> day - first
        years = self.years
        if left and (not years or year in years):
            return day - 1 + (left & -left).bit_length()
        last, stride = min(year + _CYCLE, 9999), self._stride
        coming = range(year + stride - year % stride, last + 1, stride)
        for later in years[bisect_right(years, year) :] if years else coming:
            first, kind = YEARS[later]
            mask = self._masks[kind] or self.mask(kind)
            if mask:
                return first - 1 + (mask & -mask).bit_length()
        return None

    def next_other(self, day: int) -> int | None:
        """Return the first epoch day at or after *day* that does *not* match."""
        try:
            year = _from_ordinal(day + EPOCH_ORDINAL).year
        except (ValueError, OverflowError):
            return None if day > 0 else day
        for later in range(year, min(year + _CYCLE, 9999) + 1):
            first, kind = YEARS[later]
            mask = 0 if self.years and later not in self.years else self.mask(kind)
            start = max(day, first)
            left = (_ALL_DAYS[kind & 1] ^ mask) >> (start - first)
            if left:
                return start - 1 + (left & -left).bit_length()
        return None

    def possible(self) -> bool:
        """Tell whether any day at all matches."""
        if self.years:
            return any(self.mask(YEARS[year][1]) for year in self.years)
        if not (self.tail or self.near or self.nth):
            # In the course of the centuries every date falls on every weekday, February 29 too.
            longest = 31 if self.months & _LONG_MONTHS else 30 if self.months & ~_FEBRUARY else 29
            in_month = bool(self.dom & ((1 << longest) - 1))
            return in_month and self.weekdays != 0 if self.both else in_month or self.weekdays != 0
        return any(self.mask(kind) for kind in range(14))

    def mask(self, kind: int) -> int:
        """Return the bit set of a year of this kind (bit 0: January 1)."""
        mask = self._masks[kind]
        if mask is None:
            mask = self._masks[kind] = self._make_mask(kind)
        return mask

    def _make_mask(self, kind: int) -> int:
        weekday, leap = kind >> 1, kind & 1
        lengths, offsets = _LENGTHS[leap], _OFFSETS[leap]
        months, dom = self.months, self.dom
        plain = not (self.tail or self.near)
        if plain and dom == ALL_DOM and months == ALL_MONTHS:
            in_month = within = _ALL_DAYS[leap]
        else:
            in_month = within = 0
            for month in range(12):
                if months >> month & 1:
                    whole = (1 << lengths[month]) - 1
                    within |= whole << offsets[month]
                    some = (
                        dom & whole
                        if plain
                        else self._month_side(dom, weekday + offsets[month], lengths[month])
                    )
                    in_month |= some << offsets[month]
        if self.weekdays == ALL_WEEKDAYS:
            in_week = within
        else:
            # Turn the week so that bit 0 is January 1's weekday, then repeat it through the year.
            week = (self.weekdays << 7 | self.weekdays) >> weekday & ALL_WEEKDAYS
            in_week = week * _SAME_WEEKDAY & within
        for month in range(12) if self.nth else ():
            if months >> month & 1:
                in_week |= self._nth_days(weekday + offsets[month], lengths[month]) << offsets[month]
        return in_month & in_week if self.both else in_month | in_week

    def _month_side(self, dom: int, weekday: int, length: int) -> int:
        """Return one month's days by number, from its end and near a weekday; *weekday* is that of the 1st."""
        days = dom & ((1 << length) - 1)
        for back in range(length):
            if self.tail >> back & 1:
                days |= 1 << (length - 1 - back)
        for number in self.near:
            day = number or length
            if day > length:
                continue
            on = (weekday + day - 1) % 7
            if on == 5:  # Saturday: Friday, unless that is in another month
                day += -1 if day > 1 else 2
            elif on == 6:
                day += 1 if day < length else -2
            days |= 1 << (day - 1)
        return days

    def _nth_days(self, weekday: int, length: int) -> int:
        """Return one month's days such as "second Friday"; *weekday* is that of the 1st."""
        days = 0
        for wanted, ordinal in self.nth:
            first = (wanted - weekday) % 7
            day = first + 7 * (ordinal - 1) if ordinal > 0 else first + (length - 1 - first) // 7 * 7
            if day < length:
                days |= 1 << day
        return days

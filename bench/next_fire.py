"""How long finding the next slot takes, against cronsim in the same run.

    python bench/next_fire.py [--json FILE] [--starts N] [--rounds N]

For each of ten expressions in America/New_York both libraries are asked for the first slot after the
same random instants (aware datetimes in that zone). Two figures: finding the next slot with the
expression parsed beforehand, and parsing plus the first answer with every cache of ours emptied first.
Rounds of the two alternate and the best of each counts, so a busy machine disturbs both alike.

Exit code 0 if all three limits hold, 1 if not: the median over the expressions at most 0.2 × cronsim's, the worst
at most 3 × our own median, parsing plus first answer at most 0.8 × cronsim's.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cronsim import CronSim  # noqa: E402

from echosched.schedule import cron, parse, parse_schedule  # noqa: E402

EXPRESSIONS = [
    "* * * * *",
    "*/5 * * * *",
    "0 8 * * *",
    "0 9 * * 1-5",
    "30 2 * * *",
    "0 0 29 2 *",
    "0 0 1 1 *",
    "0 0 13 * 5",
    "*/7 3-5 1,15 * *",
    "59 23 31 12 *",
]
ZONE_NAME = "America/New_York"
ZONE = ZoneInfo(ZONE_NAME)
MEDIAN_LIMIT, WORST_LIMIT, PARSE_LIMIT = 0.2, 3.0, 0.8


def starts(count: int) -> list[datetime]:
    rng = random.Random(20261121)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        (first + timedelta(seconds=rng.randrange(4 * 365 * 86_400))).astimezone(ZONE) for _ in range(count)
    ]


def timed(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def next_ours(expression: str, moments: list[datetime]) -> Callable[[], None]:
    next_after = parse_schedule(expression, ZONE_NAME).next_after

    def work() -> None:
        for moment in moments:
            next_after(moment)

    return work


def next_cronsim(expression: str, moments: list[datetime]) -> Callable[[], None]:
    iterators = [CronSim(expression, moment) for moment in moments]

    def work() -> None:
        for iterator in iterators:
            next(iterator)

    return work


def parse_ours(expression: str, moments: list[datetime]) -> Callable[[], None]:
    caches = (parse._cache, cron._numbers, cron._days)

    def work() -> None:
        for moment in moments:
            for cache in caches:
                cache.clear()
            parse_schedule(expression, ZONE_NAME).next_after(moment)

    return work


def parse_cronsim(expression: str, moments: list[datetime]) -> Callable[[], None]:
    def work() -> None:
        for moment in moments:
            next(CronSim(expression, moment))

    return work


def measure(expression: str, moments: list[datetime], rounds: int) -> dict[str, float]:
    """Return microseconds a call, the best of *rounds*, for the four kinds of work."""
    makers = {
        "next": next_ours,
        "cronsim_next": next_cronsim,
        "parse_and_first": parse_ours,
        "cronsim_parse_and_first": parse_cronsim,
    }
    best = dict.fromkeys(makers, float("inf"))
    for _ in range(rounds):
        for kind, make in makers.items():
            work = make(expression, moments)
            best[kind] = min(best[kind], timed(work) / len(moments) * 1e6)
    return best


def agree(expression: str, moments: list[datetime]) -> int:
    """Return for how many of the instants both give the same slot (they may differ in repeated hours)."""
    schedule = parse_schedule(expression, ZONE_NAME)
    return sum(
        schedule.next_after(moment) == next(CronSim(expression, moment)).astimezone(UTC) for moment in moments
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "next_fire.json")
    options.add_argument("--starts", type=int, default=300)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    moments = starts(chosen.starts)
    gc.disable()
    rows: list[dict[str, object]] = []
    print(
        f"{'expression':<20}{'next µs':>9}{'cronsim':>9}{'ratio':>7}{'parse+first':>13}{'cronsim':>9}{'ratio':>7}"
    )
    for expression in EXPRESSIONS:
        row = measure(expression, moments, chosen.rounds)
        rows.append({"expression": expression, **row, "same": agree(expression, moments)})
        print(
            f"{expression:<20}{row['next']:>9.2f}{row['cronsim_next']:>9.2f}{row['next'] / row['cronsim_next']:>7.3f}"
            f"{row['parse_and_first']:>13.2f}{row['cronsim_parse_and_first']:>9.2f}"
            f"{row['parse_and_first'] / row['cronsim_parse_and_first']:>7.3f}"
        )

    def median(kind: str) -> float:
        return statistics.median(float(str(row[kind])) for row in rows)

    worst = max(float(str(row["next"])) for row in rows)
    ratios = {
        "median_ratio": median("next") / median("cronsim_next"),
        "worst_to_median": worst / median("next"),
        "parse_ratio": median("parse_and_first") / median("cronsim_parse_and_first"),
    }
    limits = {"median_ratio": MEDIAN_LIMIT, "worst_to_median": WORST_LIMIT, "parse_ratio": PARSE_LIMIT}
    print(f"median next   {median('next'):.2f} µs, cronsim {median('cronsim_next'):.2f} µs")
    passed = True
    for name, limit in limits.items():
        held = ratios[name] <= limit
        passed = passed and held
        print(f"{name:<16} {ratios[name]:.3f} (at most {limit}) {'ok' if held else 'MISSED'}")
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"python": sys.version.split()[0], "zone": ZONE_NAME, "passed": passed, **ratios, "rows": rows}
    chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long finding the next slot takes, against cronsim in the same run.

    python bench/next_fire.py [--json FILE] [--starts N] [--rounds N]

For each of ten expressions in America/New_York both libraries are asked for the first slot after the
same random instants (aware datetimes in that zone), and for one slot after the other from New Year on.
Three figures: finding the next slot of a parsed expression in either way, and parsing plus the first
answer with every cache of ours emptied first.
CPU time is what is measured; rounds of the two alternate and the best of each counts, so that a busy
machine disturbs little, and both alike.

Exit code 0 if all limits hold, 1 if not: in either way the median over the expressions at most 0.2 ×
cronsim's and the worst at most 3 × our own median; parsing plus first answer at most 0.8 × cronsim's.
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
NEW_YEAR = datetime(2026, 1, 1, tzinfo=ZONE)
OURS = ("next", "successive", "parse_and_first")
MEDIAN_LIMIT, WORST_LIMIT, PARSE_LIMIT = 0.2, 3.0, 0.8


def starts(count: int) -> list[datetime]:
    rng = random.Random(20261121)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        (first + timedelta(seconds=rng.randrange(4 * 365 * 86_400))).astimezone(ZONE) for _ in range(count)
    ]


def timed(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


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


def successive_ours(expression: str, moments: list[datetime]) -> Callable[[], None]:
    next_after, first, count = parse_schedule(expression, ZONE_NAME).next_after, NEW_YEAR, len(moments)

    def work() -> None:
        moment = first
        for _ in range(count):
            moment = next_after(moment)  # type: ignore[assignment]

    return work


def successive_cronsim(expression: str, moments: list[datetime]) -> Callable[[], None]:
    iterator, count = CronSim(expression, NEW_YEAR), len(moments)

    def work() -> None:
        for _ in range(count):
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


KINDS = {
    "next": next_ours,
    "cronsim_next": next_cronsim,
    "successive": successive_ours,
    "cronsim_successive": successive_cronsim,
    "parse_and_first": parse_ours,
    "cronsim_parse_and_first": parse_cronsim,
}


def measure(expression: str, moments: list[datetime], rounds: int) -> dict[str, float]:
    """Return microseconds of CPU a call, the best of *rounds*, for each kind of work."""
    best = dict.fromkeys(KINDS, float("inf"))
    for _ in range(rounds):
        for kind, make in KINDS.items():
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
    options.add_argument("--starts", type=int, default=200)
    options.add_argument("--rounds", type=int, default=11)
    chosen = options.parse_args()
    moments = starts(chosen.starts)
    gc.disable()
    rows: list[dict[str, float]] = []
    print("µs of CPU a call: ours, cronsim's, ratio")
    print(f"{'':<20}{'next from anywhere':>25}{'one after another':>25}{'parse and first':>25}")
    for expression in EXPRESSIONS:
        row = measure(expression, moments, chosen.rounds)
        rows.append(row)
        figures = (
            f"{row[kind]:>9.2f}{row['cronsim_' + kind]:>9.2f}{row[kind] / row['cronsim_' + kind]:>7.3f}"
            for kind in OURS
        )
        print(f"{expression:<20}" + "".join(figures))
    medians = {kind: statistics.median(row[kind] for row in rows) for kind in KINDS}
    ratios = {f"{kind}_ratio": medians[kind] / medians[f"cronsim_{kind}"] for kind in OURS}
    for kind in OURS[:2]:
        ratios[f"{kind}_worst_to_median"] = max(row[kind] for row in rows) / medians[kind]
    passed = True
    for name, value in ratios.items():
        limit = WORST_LIMIT if "worst" in name else PARSE_LIMIT if "parse" in name else MEDIAN_LIMIT
        passed = passed and value <= limit
        print(f"{name:<28} {value:.3f} (at most {limit}) {'ok' if value <= limit else 'MISSED'}")
    same = {expression: agree(expression, moments) for expression in EXPRESSIONS}
    print(f"same answers: {sum(same.values())} of {len(moments) * len(EXPRESSIONS)}")
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "python": sys.version.split()[0],
        "zone": ZONE_NAME,
        "passed": passed,
        **ratios,
        "medians": medians,
        "rows": [
            {"expression": expression, **row, "same": same[expression]}
            for expression, row in zip(EXPRESSIONS, rows, strict=True)
        ],
    }
    chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

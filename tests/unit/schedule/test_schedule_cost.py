"""What schedules cost: imports, memory, and use from many threads at once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta

from echosched.schedule import parse_schedule
from echosched.schedule.zones import Zone, find_zone, get_zone


def modules_after(code: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(answer.stdout.split())


def test_importing_the_room_imports_no_part_of_it() -> None:
    loaded = modules_after("import echosched.schedule")
    assert not {name for name in loaded if name.startswith("echosched.schedule.")}
    assert "zoneinfo" not in loaded


def test_a_cron_line_in_utc_needs_no_zone_database_nor_the_other_forms() -> None:
    loaded = modules_after("from echosched.schedule import parse_schedule\nparse_schedule('0 8 * * *')")
    assert not loaded & {
        "zoneinfo",
        "asyncio",
        "dataclasses",
        "echosched.model",
        "echosched.schedule.calendar",
    }


def test_different_expressions_are_small() -> None:
    rng = random.Random(1)
    texts = [
        f"{rng.randrange(60)} {rng.randrange(24)} {rng.randrange(1, 29)} * {day}"
        for day in range(7)
        for _ in range(3000)
    ]
    parse_schedule(texts[0], "Europe/Berlin").next_micros(0)
    tracemalloc.start()
    try:
        schedules = [parse_schedule(text, "Europe/Berlin") for text in texts]
        for schedule in schedules:
            schedule.next_micros(1_800_000_000_000_000)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(schedules) < 350  # a hundred thousand in 35 MB


def test_threads_may_extend_one_zone_together() -> None:
    source = get_zone("Europe/Berlin")
    assert find_zone("Europe/Berlin") is source
    expected = {year: source.offset_at((year - 1970) * 31_556_952_000_000) for year in range(1990, 2600, 7)}
    fresh = Zone("Europe/Berlin", 3600, [(0, 7200), (60, 3600)], source._rule)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        years = list(expected)
        random.Random(seed).shuffle(years)
        for year in years:
            if fresh.offset_at((year - 1970) * 31_556_952_000_000) != expected[year]:
                wrong.append(year)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The made-up zone follows Berlin's rule from 1970 on; Berlin itself only since 1996.
    assert {year for year in wrong if year > 1996} == set()


def test_a_day_of_a_job_every_second_is_walked_quickly_and_exactly() -> None:
    schedule = parse_schedule("* * * * * *", "Europe/Berlin")
    moment = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    for step in range(1, 3 * 3600):
        following = schedule.next_after(moment)
        assert following == datetime(2026, 10, 24, 23, 30, tzinfo=UTC) + timedelta(seconds=step)
        moment = following

"""Whether a long history slows anything: ``status`` and ``history -n 50`` with 1,000 and with 1,000,000 runs.

    python bench/history.py [--runs N] [--rounds N]

The commands are timed from outside, in turn on both daemons; the ratio of the medians is what counts.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import common

FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO runs (run, job, slot, trigger, state, queued_at, started_at, ended_at, exit_code)
SELECT i, 'j' || (i % 100), :end - (:count - i) * 1000000, 'schedule',
       CASE WHEN i % 50 THEN 'succeeded' ELSE 'failed' END,
       :end - (:count - i) * 1000000, :end - (:count - i) * 1000000, :end - (:count - i) * 1000000 + 5000,
       CASE WHEN i % 50 THEN 0 ELSE 1 END
FROM n
"""


def filled(home: Path, runs: int) -> None:
    with common.Daemon(home, ""):
        pass
    with sqlite3.connect(home / "echosched.db") as connection:
        connection.execute(FILL, {"count": runs, "end": int(time.time() * 1e6)})
        connection.execute("UPDATE sequence SET next_run = ? WHERE id = 1", (runs + 1,))
        connection.execute(
            "INSERT OR REPLACE INTO totals (state, n) SELECT state, count(*) FROM runs GROUP BY state"
        )
    connection.close()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    sizes = {"few": 1000, "many": chosen.runs}
    verbs = {"status": ["status", "--json"], "history": ["history", "-n", "50", "--json"]}
    taken: dict[tuple[str, str], list[float]] = {(size, verb): [] for size in sizes for verb in verbs}
    with common.workshop() as directory, ExitStack() as daemons:
        for size, runs in sizes.items():
            filled(directory / size, runs)
            daemons.enter_context(common.Daemon(directory / size, ""))
        for _ in range(chosen.rounds):
            for (size, verb), seconds in taken.items():
                begun = time.perf_counter()
                common.run(*verbs[verb], home=directory / size)
                seconds.append(time.perf_counter() - begun)
    # Two runs of the very same command differ by a tenth here: "no slower" means within that.
    ratio = {verb: common.median(taken["many", verb]) / common.median(taken["few", verb]) for verb in verbs}
    return common.report(
        "history",
        [
            common.row(f"status, {chosen.runs} runs ÷ 1,000 runs", ratio["status"], 1.1, "×"),
            common.row(f"history -n 50, {chosen.runs} runs ÷ 1,000 runs", ratio["history"], 1.1, "×"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())

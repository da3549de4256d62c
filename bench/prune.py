"""Whether pruning a long history delays a slot: the lag of one job a second, without and beside a retention run.

    python bench/prune.py [--runs N] [--seconds N]

The database holds N old runs, each with its slot's row; ``retention`` is then told to keep a tenth of them,
which takes it far longer than is measured here. The delay is the difference of the two medians (and of the
slowest starts, for information: those are the machine's).
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from pathlib import Path

import common
import history

SLOTS = "INSERT INTO slots (slot, job, run) SELECT slot, job, run FROM runs WHERE slot IS NOT NULL"


def lags(daemon: common.Daemon, since: float) -> list[float]:
    rows = daemon.rows(
        "SELECT (started_at - slot) / 1000.0 FROM runs WHERE job = 'tock' AND slot > ? AND started_at IS NOT NULL",
        int(since * 1e6),
    )
    return [lag for (lag,) in rows]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--seconds", type=int, default=30)
    chosen = options.parse_args()
    with common.workshop() as directory:
        tiny = common.build(directory, "tiny", common.TINY_C, "-static")
        home: Path = directory / "home"
        history.filled(home, chosen.runs)
        with sqlite3.connect(home / "echosched.db") as connection:
            connection.execute(SLOTS)
        connection.close()
        config = (
            f'[retention]\nruns = "10000d"\nkeep = {max(1, chosen.runs // 1000)}\noutput = "10000d"\n'
            f'[job.tock]\nschedule = "* * * * * *"\ncommand = ["{tiny}"]\n'
            '[job.sweep]\nschedule = "0 0 1 1 *"\nbuiltin = "retention"\ntimeout = "1h"\n'
        )
        with common.Daemon(home, config) as daemon:
            before = daemon.rows("SELECT count(*) FROM runs")[0][0]
            time.sleep(3)
            calm_since = time.time()
            time.sleep(chosen.seconds)
            calm = lags(daemon, calm_since)
            busy_since = time.time()
            common.run("run", "sweep", home=home)
            time.sleep(chosen.seconds)
            busy = lags(daemon, busy_since)
            pruning = daemon.rows("SELECT count(*) FROM runs WHERE job = 'sweep' AND state = 'running'")[0][0]
            removed = before - daemon.rows("SELECT count(*) FROM runs")[0][0]
    return common.report(
        "prune",
        [
            common.row(
                "lag beside pruning less lag without, median",
                common.median(busy) - common.median(calm),
                5.0,
                "ms",
            ),
            common.row("without: median", common.median(calm), None, "ms"),
            common.row("without: slowest", max(calm), None, "ms"),
            common.row("beside pruning: median", common.median(busy), None, "ms"),
            common.row("beside pruning: slowest", max(busy), None, "ms"),
            common.row("runs removed meanwhile", removed, None),
            common.row("the pruning had ended before the measuring", 1 - pruning, 0),
        ],
        calm_ms=calm,
        busy_ms=busy,
    )


if __name__ == "__main__":
    sys.exit(main())

"""How late a job starts that is due every second, in a real daemon, beside what the machine itself adds.

    python bench/lag.py [--seconds N]

Lag is started_at − slot as the daemon records it: the process exists by then. A claim is on the disk before
its start, so the disk's own time to sync is measured in the same run, and the lag once more with a home in
memory (/dev/shm), where syncing costs nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import common


def lags(home: Path, tiny: Path, seconds: int) -> list[float]:
    config = f'[job.a]\nschedule = "* * * * * *"\ncommand = ["{tiny}"]\n'
    with common.Daemon(home, config) as daemon:
        time.sleep(seconds + 1)
        rows = daemon.rows("SELECT started_at, slot FROM runs WHERE started_at IS NOT NULL ORDER BY slot")
    return [(started - slot) / 1000 for started, slot in rows][1:]  # the first one meets cold caches


def sync_ms(directory: Path) -> float:
    """Median of an fdatasync after an append, one every 50 ms."""
    taken = []
    descriptor = os.open(directory / "sync", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(40):
        os.write(descriptor, b"x" * 4096)
        begun = time.perf_counter()
        os.fdatasync(descriptor)
        taken.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.05)
    os.close(descriptor)
    return common.median(taken)


def sleeper_ms(seconds: int) -> list[float]:
    """How late a Python program that does nothing else wakes at each whole second: the machine's own part."""
    late = []
    for _ in range(seconds):
        due = int(time.time()) + 1
        time.sleep(due - time.time())
        late.append((time.time() - due) * 1000)
    return late


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--seconds", type=int, default=60)
    chosen = options.parse_args()
    with common.workshop() as directory:
        tiny = common.build(directory, "tiny", common.TINY_C, "-static")
        sync = sync_ms(directory)
        found = lags(directory / "home", tiny, chosen.seconds)
        asleep = sleeper_ms(chosen.seconds // 2)
        rows = [
            common.row("lag, one job a second: median", common.median(found), 1.4, "ms"),
            common.row("lag, one job a second: 99 of 100", common.quantile(found, 0.99), 5.0, "ms"),
            common.row("slots without a run", max(0, chosen.seconds - 1 - len(found)), 0),
            common.row(
                "a program that only sleeps, in the same run: median", common.median(asleep), None, "ms"
            ),
            common.row("a program that only sleeps: 99 of 100", common.quantile(asleep, 0.99), None, "ms"),
            common.row("one fdatasync in the same run: median", sync, None, "ms"),
        ]
        if os.path.isdir("/dev/shm"):
            memory = Path(tempfile.mkdtemp(prefix="echosched-bench-", dir="/dev/shm"))
            try:
                light = lags(memory, tiny, chosen.seconds)
            finally:
                shutil.rmtree(memory, ignore_errors=True)
            rows.append(common.row("lag with a home in memory: median", common.median(light), None, "ms"))
            rows.append(
                common.row("lag with a home in memory: 99 of 100", common.quantile(light, 0.99), None, "ms")
            )
    return common.report("lag", rows, lags_ms=found)


if __name__ == "__main__":
    sys.exit(main())

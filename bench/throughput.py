"""A thousand jobs every second for a minute, and 300 jobs of 200 ms at once: nothing dropped, no growing lag.

    python bench/throughput.py [--jobs N] [--seconds N]

Growth is the lag's median in the last ten seconds less that in the first ten. A slot that came while its job's
run of the second before had not ended is skipped by policy; such rows count as dropped here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict

import common

ENDS = "SELECT slot, started_at, state FROM runs WHERE slot >= ? AND slot < ?"


def sustained(
    directory: object, config: str, seconds: int, home: str
) -> tuple[list[tuple[int, int, str]], dict[str, float]]:
    daemon = common.Daemon(directory / home, config)  # type: ignore[operator]
    with daemon:
        begin = common.slot_in(2)
        common.sleep_until(begin, before=0.5)
        pids = {"worker": daemon.worker, "supervisor": daemon.supervisor}
        before = {name: common.cpu_seconds(pid) for name, pid in pids.items()}
        rss = common.rss_bytes(daemon.worker)
        time.sleep(seconds + 0.5)
        used = {name: (common.cpu_seconds(pid) - before[name]) / seconds for name, pid in pids.items()}
        used["growth"] = (common.rss_bytes(daemon.worker) - rss) / 1e6
        time.sleep(3)
        first = int(begin.timestamp() * 1e6)
        return daemon.rows(ENDS, first, first + seconds * 1_000_000), used


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--seconds", type=int, default=60)
    chosen = options.parse_args()
    with common.workshop() as directory:
        tiny = common.build(directory, "tiny", common.TINY_C, "-static")
        each_second = "".join(
            f'[job.j{n}]\nschedule = "* * * * * *"\ncommand = ["{tiny}"]\n' for n in range(chosen.jobs)
        )
        rows, used = sustained(directory, each_second, chosen.seconds, "sustained")
        slot = common.slot_in(4)
        at = slot.isoformat().replace("+00:00", "Z")
        together = "".join(
            f'[job.j{n}]\nschedule = "at {at}"\ncommand = ["/bin/sleep", "0.2"]\n' for n in range(300)
        )
        with common.Daemon(directory / "together", together) as daemon:
            common.sleep_until(slot, before=-1.0)
            daemon.wait_for_ends(300)
            [[well, last]] = daemon.rows(
                "SELECT sum(state = 'succeeded'), max(ended_at) FROM runs WHERE slot IS NOT NULL"
            )
    by_second: dict[int, list[float]] = defaultdict(list)
    dropped = chosen.jobs * chosen.seconds - len(rows)
    for due, started, state in rows:
        if state == "succeeded":
            by_second[due].append((started - due) / 1000)
        else:
            dropped += 1
    seconds = sorted(by_second)
    tenth = max(1, min(10, len(seconds) // 3))
    early = [lag for second in seconds[:tenth] for lag in by_second[second]]
    late = [lag for second in seconds[-tenth:] for lag in by_second[second]]
    return common.report(
        "throughput",
        [
            common.row(f"{chosen.jobs} jobs a second for {chosen.seconds} s: slots dropped", dropped, 0),
            common.row(
                "growth of the median lag from the first seconds to the last",
                common.median(late) - common.median(early),
                20,
                "ms",
            ),
            common.row(
                "median lag", common.median([lag for lags in by_second.values() for lag in lags]), None, "ms"
            ),
            common.row(
                "the slowest start of each second, median",
                common.median([max(lags) for lags in by_second.values()]),
                None,
                "ms",
            ),
            common.row("CPU of the worker, of one core", used["worker"] * 100, None, "%"),
            common.row("CPU of the supervisor, of one core", used["supervisor"] * 100, None, "%"),
            common.row("memory that the worker grew by", used["growth"], None, "MB"),
            common.row("300 jobs of 200 ms at once: not succeeded", 300 - well, 0),
            common.row("the same: last end after the slot", last / 1e6 - slot.timestamp(), None, "s"),
        ],
        last_starts_ms=[max(by_second[second]) for second in seconds],
    )


if __name__ == "__main__":
    sys.exit(main())

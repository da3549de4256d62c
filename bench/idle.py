"""What a daemon costs that has nothing to do: CPU with 10,000 jobs, memory with 10.

python bench/idle.py [--seconds N]
"""

from __future__ import annotations

import argparse
import sys
import time

import common


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--seconds", type=int, default=60)
    chosen = options.parse_args()
    with common.workshop() as directory:
        few = "".join(f'[job.j{i}]\nschedule = "0 0 1 1 *"\ncommand = ["/bin/true"]\n' for i in range(10))
        with common.Daemon(directory / "few", few) as daemon:
            time.sleep(2)
            pss = common.pss_bytes(daemon.worker) + common.pss_bytes(daemon.supervisor)
        table = directory / "crontab"
        table.write_text("".join(f"0 0 1 1 * /bin/true {i}\n" for i in range(10_000)))
        with common.Daemon(directory / "many", f'[daemon]\ncrontabs = ["{table}"]\n') as daemon:
            time.sleep(5)
            pids = [daemon.worker, daemon.supervisor]
            before = sum(map(common.cpu_seconds, pids))
            time.sleep(chosen.seconds)
            used = (sum(map(common.cpu_seconds, pids)) - before) * 60 / chosen.seconds
    return common.report(
        "idle",
        [
            common.row("CPU a minute with 10,000 jobs, ticks and beats included", used * 1000, 3.0, "ms"),
            common.row("memory (PSS) of supervisor and worker, 10 jobs", pss / 1e6, 30.0, "MB"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())

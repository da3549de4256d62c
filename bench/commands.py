"""How long commands take, as multiples of ``python -c pass`` of the same interpreter.

    python bench/commands.py [--rounds N]

Each round measures all of them in turn, so that a busy machine disturbs all alike; medians count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import common


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    taken: dict[str, list[float]] = {"pass": [], "version": [], "status": [], "start": []}

    def version() -> None:
        subprocess.run([*common.COMMAND, "--version"], check=True, capture_output=True)

    def nothing() -> None:
        subprocess.run([sys.executable, "-c", "pass"], check=True, capture_output=True)

    with common.workshop() as directory:
        for number in range(chosen.rounds):
            taken["pass"].append(seconds(nothing))
            taken["version"].append(seconds(version))
            with common.Daemon(directory / f"home{number}", "") as daemon:
                taken["start"].append(daemon.start_seconds)
                taken["status"].append(seconds(lambda: common.run("status", home=daemon.home)))
    base = common.median(taken["pass"])
    ratio = {name: common.median(values) / base for name, values in taken.items()}
    return common.report(
        "commands",
        [
            common.row("--version ÷ python -c pass", ratio["version"], 1.6, "×"),
            common.row("status ÷ python -c pass", ratio["status"], 5.0, "×"),
            common.row("start to READY ÷ python -c pass", ratio["start"], 20.0, "×"),
            common.row("python -c pass", base * 1000, None, "ms"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())

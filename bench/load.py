"""Reading many jobs: 100,000 crontab lines, 1,000 TOML jobs, a reload that changes one of 10,000.

    python bench/load.py [--lines N]

Times are from the command's start to READY. Debian's cron reads only the system's own crontabs, so its time
is not taken in the same run: the limit is three times what it once took on a quiet machine of this kind.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import common

CRON_SECONDS = 0.9  # Debian cron over 100,000 lines on this kind of machine, measured in November 2026


def crontab(lines: int) -> str:
    return "".join(f"{i % 60} {i % 24} {i % 28 + 1} * * /bin/true {i}\n" for i in range(lines))


def with_crontab(directory: Path, lines: int) -> tuple[str, Path]:
    table = directory / f"crontab-{lines}"
    table.write_text(crontab(lines))
    return f'[daemon]\ncrontabs = ["{table}"]\n', table


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--lines", type=int, default=100_000)
    chosen = options.parse_args()
    with common.workshop() as directory:
        empty = []
        for number in range(3):
            with common.Daemon(directory / f"empty{number}", "") as daemon:
                empty.append(daemon.start_seconds)
        toml = "".join(
            f'[job.j{i}]\nschedule = "{i % 60} {i % 24} * * *"\ncommand = ["/bin/true"]\n'
            for i in range(1000)
        )
        with common.Daemon(directory / "toml", toml) as daemon:
            toml_seconds = daemon.start_seconds - common.median(empty)
        config, table = with_crontab(directory, 10_000)
        with common.Daemon(directory / "reload", config) as daemon:
            reloads = []
            for number in range(3):
                table.write_text(f"{number} 3 1 1 * /bin/false\n" + crontab(10_000))
                begun = time.perf_counter()
                common.run("reload", home=daemon.home)
                reloads.append(time.perf_counter() - begun)
        config, _ = with_crontab(directory, chosen.lines)
        with common.Daemon(directory / "many", config) as daemon:
            many = daemon.start_seconds
            memory = (common.pss_bytes(daemon.worker) + common.pss_bytes(daemon.supervisor)) / 1e6
    return common.report(
        "load",
        [
            common.row(f"{chosen.lines} crontab lines: start to READY", many, 3 * CRON_SECONDS, "s"),
            common.row(f"{chosen.lines} crontab lines: memory (PSS)", memory, 150, "MB"),
            common.row("1,000 TOML jobs over an empty start", toml_seconds, 0.3, "s"),
            common.row("reload, one of 10,000 lines changed", common.median(reloads), 0.2, "s"),
            common.row("an empty start", common.median(empty), None, "s"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())

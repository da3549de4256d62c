"""Jobs that meet a change of the clocks are named with the date."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from echosched.config.daylight import count_daylight, daylight_warnings
from echosched.config.load import load

NOW = datetime(2026, 11, 21, tzinfo=UTC)

TOML = """
timezone = "Europe/Berlin"
daemon.crontabs = "crontab"
[job.backup]
schedule = "30 2 * * *"
command = "x"
[job.twin]
schedule = "30 2 * * *"
command = "y"
[job.poll]
schedule = "*/10 * * * *"
command = "x"
[job.noon]
schedule = "0 12 * * *"
command = "x"
[job.elapsed]
schedule = "every 1h"
command = "x"
[job.utc]
schedule = "30 2 * * *"
timezone = "UTC"
command = "x"
[job.off]
schedule = "30 2 * * *"
enabled = false
command = "x"
[job.york]
schedule = "@daily"
except = "2027-03-14"
timezone = "America/New_York"
command = "x"
"""


def test_times_that_are_skipped_or_repeated_are_named(tmp_path: Path) -> None:
    (tmp_path / "echosched.toml").write_text(TOML)
    (tmp_path / "crontab").write_text("15 2 29 3 * tidy\n20 2 * 3 sun mop\n")
    jobs = load(str(tmp_path / "echosched.toml"), environ={}, uid=1000).jobs.values()
    text = '"30 2 * * *": 2027-03-28 02:30 is skipped in Europe/Berlin: runs at 03:00, right after the gap'
    again = '"30 2 * * *": 2027-10-31 02:30 comes twice in Europe/Berlin: runs once, the first time'
    assert daylight_warnings(jobs, NOW) == [
        f"echosched.toml: job.backup.schedule: {text}",
        f"echosched.toml: job.backup.schedule: {again}",
        f"echosched.toml: job.twin.schedule: {text}",
        f"echosched.toml: job.twin.schedule: {again}",
        'crontab: job.mop.schedule: "20 2 * 3 sun": 2027-03-28 02:20 is skipped in Europe/Berlin: '
        "runs at 03:00, right after the gap",
    ]
    assert count_daylight(jobs, NOW) == 3

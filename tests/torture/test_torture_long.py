"""Kills, faults and steps of the clock, all over one set of jobs: for minutes by ``make torture``, else each once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .campaign import Campaign
from .driver import Ordeal
from .shim import ClockShim

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
MINUTES = float(os.environ.get("ECHOSCHED_TORTURE_MINUTES", "10"))
ENOUGH = 0.9
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting and attaching take root"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the clock's shim is compiled here"),
]


@pytest.mark.timeout(MINUTES * 60 * 3 + 900)
def test_minutes_of_kills_faults_and_clock_steps_lose_and_double_nothing(
    ordeal: Ordeal, shim: ClockShim, mounted: Callable[..., Path]
) -> None:
    seed = int(os.environ.get("ECHOSCHED_SEED", time.time_ns() % 100_000))
    ordeal.chance.seed(seed)
    disk = mounted("-t", "tmpfs", "-o", "size=32m", "tmpfs")
    ordeal.database = disk / "echosched.db"
    ordeal.environ |= {"ECHOSCHED_DB": str(ordeal.database)}
    ordeal.furnish()
    ordeal.ok("start")
    # A clock that is set back soon goes back behind the jobs' beginning: nothing is owed from there.
    ordeal.since = datetime.now(UTC)
    time.sleep(2)
    campaign, begun = Campaign(ordeal, disk, shim), time.monotonic()
    if DEEP:
        campaign.run(MINUTES * 60)
    else:
        campaign.run_each()
    seconds = time.monotonic() - begun
    account = ordeal.account(ordeal.calm_down(120 + seconds), blind=True)
    print(f"\nseed {seed}\n{campaign.table(seconds, account)}")
    account.hold()
    assert ordeal.worker_kills
    assert ordeal.supervisor_kills
    if DEEP:
        assert account.succeeded >= ENOUGH * (account.succeeded + account.abandoned)

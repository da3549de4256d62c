"""The long run of ``make torture``: kills, faults and steps of the clock, all in one life of one set of jobs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .campaign import Campaign
from .driver import Ordeal
from .shim import ClockShim

MINUTES = float(os.environ.get("ECHOSCHED_TORTURE_MINUTES", "10"))
ENOUGH = 0.9
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting and attaching take root"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the clock's shim is compiled here"),
    pytest.mark.deep,
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
    time.sleep(2)
    campaign = Campaign(ordeal, disk, shim)
    campaign.run(MINUTES * 60)
    account = ordeal.account(ordeal.calm_down(120 + MINUTES * 60), blind=True)
    print(f"\nseed {seed}\n{campaign.table(MINUTES * 60, account)}")
    account.hold()
    assert account.succeeded >= ENOUGH * (account.succeeded + account.abandoned)
    assert ordeal.worker_kills
    assert ordeal.supervisor_kills

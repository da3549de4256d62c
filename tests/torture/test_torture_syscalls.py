"""Killed at chosen system calls: between any two steps of a claim, a start, an end, a state file."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.system.conftest import eventually

from .driver import Ordeal
from .syscalls import SUPERVISOR_POINTS, WORKER_POINTS, Injection, alive, rule

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="attaching takes root"),
]


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_killed_at_chosen_system_calls_lose_and_double_nothing(ordeal: Ordeal) -> None:
    seed = int(os.environ.get("ECHOSCHED_SEED", time.time_ns() % 100_000))
    ordeal.chance.seed(seed)
    ordeal.furnish()
    ordeal.ok("start")
    hit: dict[str, int] = {}
    for point in WORKER_POINTS:
        worker = eventually(ordeal.find_worker)
        injection = Injection(worker, rule(point))
        if injection.wait_for_death(3.0):
            hit[f"worker {point}"] = hit.get(f"worker {point}", 0) + 1
            ordeal.worker_kills += 1
        injection.close()
    for point in SUPERVISOR_POINTS:
        eventually(ordeal.find_worker)
        supervisor = ordeal.pid
        injection = Injection(supervisor, rule(point))
        ordeal.kill_worker()
        if injection.wait_for_death(3.0):
            hit[f"supervisor {point}"] = hit.get(f"supervisor {point}", 0) + 1
            ordeal.supervisor_kills += 1
        injection.close()
        if not alive(supervisor):
            ordeal.ok("start")
    account = ordeal.account(ordeal.calm_down(400))
    kills = f"worker kills {ordeal.worker_kills}, supervisor kills {ordeal.supervisor_kills}"
    print(f"\nseed {seed}: {kills} at {len(hit)} different calls, {account.line}\n  {hit}")
    account.hold()
    assert hit

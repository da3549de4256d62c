"""kill -9 at random instants: no slot lost, none doubled."""

from __future__ import annotations

import os
import time

import pytest

from .driver import Ordeal

SECONDS = float(os.environ.get("ECHOSCHED_TORTURE_SECONDS", "300"))


@pytest.mark.deep
@pytest.mark.timeout(SECONDS * 3 + 240)
def test_worker_and_supervisor_killed_at_random_lose_and_double_nothing(ordeal: Ordeal) -> None:
    seed = int(os.environ.get("ECHOSCHED_SEED", time.time_ns() % 100_000))
    ordeal.chance.seed(seed)
    ordeal.furnish()
    ordeal.ok("start")
    time.sleep(2)
    ordeal.torment(SECONDS)
    until = ordeal.calm_down(60 + SECONDS)
    account = ordeal.account(until)
    print(
        f"\nseed {seed}: worker kills {ordeal.worker_kills}, supervisor kills {ordeal.supervisor_kills}, {account.line}"
    )
    account.hold()
    assert account.succeeded >= 0.9 * (account.succeeded + account.abandoned)

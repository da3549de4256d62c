"""Killed at chosen system calls: between any two steps of a claim, a start, an end, a state file."""

from __future__ import annotations

import os
import random
import shutil
import time

import pytest

from tests.system.conftest import eventually

from .driver import Ordeal
from .syscalls import Injection, alive

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="attaching takes root"),
]

# What a worker does for a slot, in this order; each point kills it on entering the call, that is after
# everything before and before the call itself.
WORKER_POINTS = [
    "timerfd_settime:1", "timerfd_settime:2",
    "pwrite64:1", "pwrite64:2", "pwrite64:3", "pwrite64:5", "fdatasync:1", "fdatasync:2", "fdatasync:3",
    "clone3:1", "clone3:2", "vfork:1", "pidfd_open:1", "pidfd_open:2", "sendto:1", "sendto:2", "sendto:4",
    "epoll_ctl:1", "epoll_ctl:2", "write:1", "write:2", "write:3", "write:5", "waitid:1", "waitid:2",
    "futex:9",
]  # fmt: skip
# What a supervisor does when its worker dies and the next one comes.
SUPERVISOR_POINTS = [
    "poll:1", "recvfrom:1", "recvfrom:3", "waitid:1", "waitid:2", "waitid:4", "write:1", "write:2", "rename:1",
    "rename:2", "fsync:1", "fdatasync:1", "clone3:1", "vfork:1", "sendto:1", "close:1", "openat:1", "openat:3",
]  # fmt: skip


def rule(point: str) -> str:
    call, _, number = point.partition(":")
    return f"{call}:signal=KILL:when={number}"


def chosen(points: list[str], count: int, chance: random.Random) -> list[str]:
    return points if DEEP else chance.sample(points, count)


@pytest.mark.timeout(900 if DEEP else 180)
def test_killed_at_chosen_system_calls_lose_and_double_nothing(ordeal: Ordeal) -> None:
    seed = int(os.environ.get("ECHOSCHED_SEED", time.time_ns() % 100_000))
    ordeal.chance.seed(seed)
    ordeal.furnish()
    ordeal.ok("start")
    hit: dict[str, int] = {}
    for point in chosen(WORKER_POINTS, 5, ordeal.chance):
        worker = eventually(ordeal.find_worker)
        injection = Injection(worker, rule(point))
        if injection.wait_for_death(4.0):
            hit[f"worker {point}"] = hit.get(f"worker {point}", 0) + 1
            ordeal.worker_kills += 1
        injection.close()
    for point in chosen(SUPERVISOR_POINTS, 3, ordeal.chance):
        eventually(ordeal.find_worker)
        supervisor = ordeal.pid
        injection = Injection(supervisor, rule(point))
        ordeal.kill_worker()
        if injection.wait_for_death(4.0):
            hit[f"supervisor {point}"] = hit.get(f"supervisor {point}", 0) + 1
            ordeal.supervisor_kills += 1
        injection.close()
        if not alive(supervisor):
            ordeal.ok("start")
    account = ordeal.account(ordeal.calm_down(400 if DEEP else 60))
    kills = f"worker kills {ordeal.worker_kills}, supervisor kills {ordeal.supervisor_kills}"
    print(f"\nseed {seed}: {kills} at {len(hit)} different calls, {account.line}\n  {hit}")
    account.hold()
    assert len(hit) >= 2

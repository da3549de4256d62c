"""A host whose clock is wrong: told in one line, and its slots come when the database's clock says so."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.system.conftest import eventually
from tests.torture.test_torture_clock import ClockShim

from .conftest import MakeFleet
from .fleet import Task

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim is compiled here"),
]


@pytest.mark.parametrize("ahead", [8, pytest.param(-8, marks=pytest.mark.deep)])
def test_a_wrong_clock_is_told_and_moves_no_slot(make_fleet: MakeFleet, tmp_path: Path, ahead: int) -> None:
    fleet = make_fleet(2)
    seen = fleet.directory / "seen"
    # Jobs have an environment of their own: their clock is the machine's, whatever the daemon believes.
    fleet.furnish({"j": Task("* * * * * *", f'echo "$ECHOSCHED_SLOT $(date +%s.%N)" >> {seen}')})
    first, second = fleet.hosts
    shim = ClockShim(tmp_path, second)
    shim.step(timedelta(seconds=ahead))
    fleet.start()
    eventually(lambda: len(fleet.query("SELECT DISTINCT owner FROM runs WHERE started_at IS NOT NULL")) == 2)
    way = "ahead of" if ahead > 0 else "behind"
    # The database's clock is read over the wire: on a busy machine that is some tenths of a second wrong.
    told = rf"host-1: its clock is (7\.[5-9]|8\.[0-5])s {way} the database's"
    eventually(lambda: re.search(told, first.ok("cluster", "status")))
    # A host alone with its belief would start slots that have not come, or late.
    status = eventually(lambda: second.status if second.status["health"] == "degraded" else None)
    assert any("by which slots are judged" in reason for reason in status["reasons"])
    eventually(lambda: first.status["health"] == "ok")
    eventually(lambda: seen.exists() and seen.read_text().count("\n") >= 5)
    lags = []
    for line in seen.read_text().splitlines():
        slot, at = line.split()
        lags.append(float(at) - datetime.fromisoformat(slot).timestamp())
    assert min(lags) > -0.5, sorted(lags)[:3]  # a wrong clock would make it -8
    assert sorted(lags)[len(lags) // 2] < 5.0
    fleet.account(fleet.calm_down()).hold()

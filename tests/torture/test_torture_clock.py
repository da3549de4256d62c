"""The wall clock is set, forward and back, and the machine sleeps: for the daemon only, at the system-call edge."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.system.conftest import eventually

from .driver import Ordeal
from .oracle import due_slots, read_marks
from .shim import ClockShim

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim is compiled here")

EXACT = 'catchup = "all"\noverlap = "allow"\n'
JOBS = {
    "exact": ("* * * * * *", "", EXACT),
    "plain": ("*/3 * * * * *", "sleep 0.1", ""),
    "replace": ("*/5 * * * * *", "sleep 3", 'overlap = "replace"\n'),
}


def fired_after(ordeal: Ordeal, instant: datetime) -> int:
    return sum(slot > instant and job == "exact" for job, slot, _ in read_marks(ordeal.marks))


def jumped(ordeal: Ordeal, told: int) -> bool:
    return len(ordeal.events("clock_jump")) > told


@pytest.mark.timeout(300)
def test_clock_steps_and_sleep_lose_and_double_nothing_and_are_told_once(
    ordeal: Ordeal, shim: ClockShim
) -> None:
    ordeal.furnish(JOBS, followers=False)
    ordeal.ok("start")
    eventually(lambda: fired_after(ordeal, shim.now - timedelta(minutes=1)) >= 2)
    steps = [(-15.0, False), (40.0, False), (60.0, True), (-3.0, False)]
    if DEEP:
        steps += [(ordeal.chance.uniform(-20, 60), False) for _ in range(20)]
    steps = [step for step in steps if abs(step[0]) > 1.5]
    for seconds, asleep in steps:
        time.sleep(ordeal.chance.uniform(1.0, 2.5))
        told = len(ordeal.events("clock_jump"))
        shim.step(timedelta(seconds=seconds), asleep=asleep)
        eventually(partial(jumped, ordeal, told))
    furthest = shim.now + timedelta(seconds=20)
    eventually(lambda: shim.now > furthest or fired_after(ordeal, shim.now - timedelta(seconds=3)) >= 1)
    jumps = [(round(event["seconds"]), event["suspended"]) for event in ordeal.events("clock_jump")]
    assert jumps == [(round(seconds), asleep) for seconds, asleep in steps]
    # Set while nobody looks: back before a restart, and forward after a crash.
    ordeal.kill_supervisor(restart=False)
    shim.step(timedelta(seconds=-8))
    ordeal.ok("start")
    ordeal.kill_worker()
    shim.step(timedelta(seconds=12))
    account = ordeal.account(ordeal.calm_down())
    print(f"\nclock steps {jumps}, back and forward over restarts: {account.line}")
    account.hold()


@pytest.mark.timeout(300)
def test_a_machine_that_booted_in_1970_goes_on_when_its_clock_is_set(ordeal: Ordeal, shim: ClockShim) -> None:
    """No row for each minute of half a century: those slots were never due, the clock was wrong."""
    shim.step(datetime(1970, 1, 1, 0, 1, tzinfo=UTC) - datetime.now(UTC))
    ordeal.furnish(JOBS, followers=False)
    ordeal.ok("start")
    eventually(lambda: fired_after(ordeal, datetime(1970, 1, 1, tzinfo=UTC)) >= 2)
    shim.step(-ordeal.offset)
    set_at = shim.now
    eventually(lambda: fired_after(ordeal, set_at) >= 2)
    ordeal.kill_worker()
    eventually(lambda: fired_after(ordeal, set_at) >= 5)
    assert len(ordeal.events("clock_jump")) == 1
    rows = ordeal.history()
    assert len(rows) < 200
    ordeal.ok("stop")
    assert max(read_marks(ordeal.marks).values()) == 1


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_damaged_database_and_a_clock_set_back_in_one_life_double_nothing(
    ordeal: Ordeal, shim: ClockShim
) -> None:
    """The fresh database has none of the old rows, so that slots which come due again meet no key there."""
    ordeal.furnish(JOBS, followers=False)
    ordeal.ok("start")
    eventually(lambda: fired_after(ordeal, shim.now - timedelta(minutes=1)) >= 3)
    worker = eventually(ordeal.find_worker)
    damage(ordeal.database)
    eventually(lambda: ordeal.events("store_recovered"))
    assert len(list(ordeal.directory.glob("*.damaged-*Z"))) == 1
    shim.step(timedelta(seconds=-8))
    furthest = shim.now + timedelta(seconds=8)
    eventually(lambda: fired_after(ordeal, furthest) >= 2)
    assert ordeal.find_worker() == worker
    until = shim.now
    ordeal.ok("stop")
    marks = read_marks(ordeal.marks)
    assert max(marks.values()) == 1
    exact = {slot for job, slot, _ in marks if job == "exact"}
    assert due_slots(JOBS["exact"][0], min(exact), until - timedelta(seconds=1)) <= exact


def damage(database: Path) -> None:
    """Overwrite all pages but the first, where a running worker cannot but notice."""
    connection = sqlite3.connect(database, timeout=10)
    connection.execute("INSERT INTO notes (key, value) VALUES ('a stranger', 'was here')")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with open(database, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(size - 4096))

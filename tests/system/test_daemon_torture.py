"""Many rounds of what must never happen: two daemons, none at all, or a daemon that cannot be started again.

``ECHOSCHED_ROUNDS`` (default 3) sets how many.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_fixtures import Home, eventually

from echosched.daemon import lock, proc

ROUNDS = int(os.environ.get("ECHOSCHED_ROUNDS", "3"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 60 * ROUNDS)]


def supervisors_in(home: Home) -> list[int]:
    """Return the living supervisors that use this home's log, however they came about."""
    found = []
    for pid in proc.all_pids():
        try:
            if b"daemon/__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes() and proc.is_alive(pid):
                names = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
                if any(name.startswith(f"{home.path}/") for name in names):
                    found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("stale", [False, True])
def test_twenty_starters_round_after_round_give_exactly_one(tmp_path: Path, stale: bool) -> None:
    for number in range(ROUNDS):
        home = Home(tmp_path / f"{number}")
        home.path.mkdir()
        if stale:
            Path(home.paths.pidfile).write_text("1\n")
        try:
            starters = [home.spawn("start", settings={"start_wait": 60}) for _ in range(20)]
            answers = [starter.communicate(timeout=90) for starter in starters]
            assert [starter.returncode for starter in starters] == [0] * 20, answers
            pids = {int(out.split()[0]) for out, _ in answers}
            assert len(pids) == 1
            assert supervisors_in(home) == list(pids)
        finally:
            home.kill()


def test_starters_and_daemons_killed_at_random_never_leave_two_or_a_home_that_does_not_start(
    tmp_path: Path,
) -> None:
    chance = random.Random(4711)
    home = Home(tmp_path)
    try:
        for _ in range(ROUNDS * 4):
            starters = [home.spawn("start", settings={"start_wait": 60}) for _ in range(4)]
            time.sleep(chance.uniform(0.0, 0.4))
            for victim in chance.sample(starters, 2):
                victim.kill()
            if chance.random() < 0.5:
                for pid in supervisors_in(home):
                    proc.send_signal(pid, proc.start_ticks(pid), signal.SIGKILL)
            for starter in starters:
                starter.communicate(timeout=90)
            assert len(supervisors_in(home)) <= 1
            pid = home.start()
            assert supervisors_in(home) == [pid]
            assert eventually(lambda: home.status()["health"] == "ok")
            if chance.random() < 0.5:
                assert home.run("stop").returncode == 0
                assert not lock.is_held(home.paths.pidfile)
    finally:
        home.kill()

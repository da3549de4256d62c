"""Four hosts under everything at once: none of their slots is lost, none is run twice, no run is recorded twice.

One host is stopped and continued, workers and supervisors are killed, one host is cut off and rejoined (in both
directions, and then only for the answers), the database is restarted and killed. The oracle is what the jobs
themselves wrote down, against the rows. ECHOSCHED_DEEP=1 (make torture-cluster) takes a minute, else 20 seconds.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import MakeFleet
from .fleet import EXACT, Fleet, Task, say

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

RETRY = EXACT + 'on_abandoned = "retry"\n'


def fifty_a_second() -> dict[str, Task]:
    """Return fifty jobs that are due each second: most end at once, some last, some may be repeated."""
    jobs = {f"quick{n}": Task("* * * * * *") for n in range(30)}
    jobs |= {f"slow{n}": Task("* * * * * *", "sleep 0.4") for n in range(10)}
    jobs |= {f"again{n}": Task("* * * * * *", "sleep 0.4", RETRY) for n in range(8)}
    # A job that always overlaps itself would never come to its backlog: that waits until the job rests.
    jobs |= {f"long{n}": Task(f"{n}-59/5 * * * * *", "sleep 3") for n in range(5)}
    jobs |= {"quick30": Task("* * * * * *")}
    return jobs


def four_hosts(make_fleet: MakeFleet, **options: Any) -> Fleet:
    """Return four hosts that have begun with these jobs."""
    fleet = make_fleet(4, **options)
    fleet.furnish(fifty_a_second(), repeatable=[f"again{n}" for n in range(8)])
    fleet.start()
    return fleet


Step = tuple[float, str, Callable[[], None]]


def follow(steps: list[Step], seconds: float) -> None:
    """Carry out the steps, each at its time, and wait for the end."""
    begin = time.monotonic()
    for at, what, act in sorted(steps, key=lambda step: step[0]):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        say(f"{time.monotonic() - begin:5.1f} s: {what}")
        act()
    time.sleep(max(0.0, begin + seconds - time.monotonic()))


def judge(fleet: Fleet, *, kills: str) -> None:
    until = fleet.calm_down(240.0)
    tally = fleet.account(until)
    say(f"{tally.line}; {kills}")
    tally.hold()
    assert tally.account.ran > 0.5 * tally.account.due
    assert len(tally.share) == len(fleet.hosts)


@pytest.mark.timeout(600)
def test_four_hosts_lose_nothing_and_double_nothing_whatever_happens(make_fleet: MakeFleet) -> None:
    fleet = four_hosts(make_fleet, heartbeat="1s", lease="4s", seed=1)
    first, second, third, fourth = fleet.hosts
    steps: list[Step] = [
        (2.0, "host-1 sleeps", second.pause),
        (3.0, "host-2 is cut off", third.way.cut),
        (5.0, "the worker of host-0 is killed", first.kill_worker),
        (7.0, "the database is restarted", fleet.server.restart),
        (9.0, "host-2 is joined", third.way.join),
        (10.0, "host-1 goes on", second.go_on),
        (11.0, "the supervisor of host-3 is killed", fourth.kill_supervisor),
        (13.0, "host-0 gets no answers", lambda: first.way.cut(answers_only=True)),
        (15.0, "the worker of host-2 is killed", third.kill_worker),
        (16.0, "host-0 is joined", first.way.join),
        (17.0, "the database crashes", lambda: fleet.server.restart(signal.SIGQUIT)),
    ]
    follow(steps, 20.0)
    judge(
        fleet, kills="two workers, one supervisor, one pause of 8 s, two cuts, two restarts of the database"
    )


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_four_hosts_lose_nothing_in_a_minute_with_a_pause_of_twenty_seconds(make_fleet: MakeFleet) -> None:
    fleet = four_hosts(make_fleet, heartbeat="2s", lease="7s", seed=2)
    first, second, third, fourth = fleet.hosts
    steps: list[Step] = [
        (5.0, "host-1 sleeps for 20 s", second.pause),
        (25.0, "host-1 goes on", second.go_on),
        (12.0, "host-2 is cut off for 15 s", third.way.cut),
        (27.0, "host-2 is joined", third.way.join),
        (20.0, "the database is restarted", lambda: fleet.server.restart(pause_seconds=2.0)),
        (40.0, "the database crashes", lambda: fleet.server.restart(signal.SIGQUIT)),
        (45.0, "host-2 gets no answers for 8 s", lambda: third.way.cut(answers_only=True)),
        (53.0, "host-2 is joined", third.way.join),
    ]
    kills = 0
    for _ in range(14):
        host = fleet.chance.choice((first, fourth))
        if fleet.chance.random() < 0.3:
            steps.append(
                (
                    fleet.chance.uniform(1, 58),
                    f"the supervisor of {host.name} is killed",
                    host.kill_supervisor,
                )
            )
        else:
            steps.append(
                (fleet.chance.uniform(1, 58), f"the worker of {host.name} is killed", host.kill_worker)
            )
        kills += 1
    follow(steps, 60.0)
    judge(fleet, kills=f"{kills} kills, one pause of 20 s, two cuts, two restarts of the database")

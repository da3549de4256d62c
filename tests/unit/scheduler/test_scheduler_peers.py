"""Who goes ahead: alike on all instances, for each slot and ticket one of them, shares by capacity."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from echosched.scheduler.peers import TURN_SECONDS, Peers

NOW = datetime(2026, 3, 1, tzinfo=UTC)
living = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 500), min_size=1, max_size=8)


def seen_by_each(capacities: dict[str, int]) -> list[Peers]:
    found = []
    for name in capacities:
        peers = Peers(name)
        peers.see(list(capacities.items()))
        found.append(peers)
    return found


@given(living, st.text(max_size=20), st.integers(0, 10**9))
def test_for_each_slot_exactly_one_instance_goes_ahead(
    capacities: dict[str, int], job: str, seconds: int
) -> None:
    slot = datetime(1980, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert sum(peers.claims(job, slot) for peers in seen_by_each(capacities)) == 1


@given(living, st.integers(1, 2**62))
def test_for_each_ticket_exactly_one_instance_goes_ahead(capacities: dict[str, int], number: int) -> None:
    assert sum(peers.takes(number) for peers in seen_by_each(capacities)) == 1


def test_tickets_are_shared_by_capacity() -> None:
    capacities = {"small": 10, "middle": 20, "large": 70}
    each = dict(zip(capacities, seen_by_each(capacities), strict=True))
    share = Counter(
        name for number in range(1, 10_001) for name, peers in each.items() if peers.takes(number)
    )
    assert all(abs(share[name] - capacity * 100) < 200 for name, capacity in capacities.items()), share


def test_instances_take_turns_for_a_job_and_share_the_jobs() -> None:
    each = seen_by_each({"a": 1, "b": 1, "c": 1})
    turns = Counter(
        index
        for turn in range(300)
        for index, peers in enumerate(each)
        if peers.claims("job", NOW + timedelta(seconds=turn * TURN_SECONDS))
    )
    jobs = Counter(
        index for n in range(300) for index, peers in enumerate(each) if peers.claims(f"job{n}", NOW)
    )
    assert min(turns.values()) > 60, turns
    assert min(jobs.values()) > 60, jobs


def test_who_knows_of_nobody_goes_ahead_everywhere() -> None:
    peers = Peers("a")
    assert peers.alone
    assert peers.claims("job", NOW)
    assert peers.takes(7)


def test_who_is_not_among_the_takers_leaves_everything_to_the_others() -> None:
    peers = Peers("draining")
    peers.see([("a", 5)])
    assert not peers.alone
    assert not any(peers.claims(f"job{n}", NOW) or peers.takes(n) for n in range(50))

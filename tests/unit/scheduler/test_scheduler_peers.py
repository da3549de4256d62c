"""Who goes ahead: alike on all instances, for each slot and ticket one of them, shares by capacity."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from echosched.scheduler.peers import Peers

NOW = datetime(2026, 3, 1, tzinfo=UTC)
living = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 500), min_size=1, max_size=8)


def seen_by_each(capacities: dict[str, int], labels: dict[str, tuple[str, ...]] | None = None) -> list[Peers]:
    living = [(name, capacity, (labels or {}).get(name, ())) for name, capacity in capacities.items()]
    found = []
    for name in capacities:
        peers = Peers(name)
        peers.see(living)
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


@given(st.text(max_size=20), st.sampled_from([0.2, 1, 2, 5, 10, 60, 300, 3600, 86_400]))
def test_the_slots_of_a_job_go_round_the_instances(job: str, seconds: float) -> None:
    each = seen_by_each({"a": 64, "b": 64})
    turns = [each[0].claims(job, NOW + timedelta(seconds=n * seconds)) for n in range(400)]
    assert 160 < sum(turns) < 240
    longest = max(len(list(same)) for _, same in itertools.groupby(turns))
    assert longest <= 8, "none goes ahead for long: another one may have another definition of the job"


def test_slots_are_shared_by_capacity() -> None:
    capacities = {"small": 10, "middle": 20, "large": 70}
    each = dict(zip(capacities, seen_by_each(capacities), strict=True))
    share = Counter(
        name
        for n in range(30)
        for second in range(100)
        for name, peers in each.items()
        if peers.claims(f"job{n}", NOW + timedelta(seconds=second))
    )
    assert all(abs(share[name] - capacity * 30) < 60 for name, capacity in capacities.items()), share


def test_a_slot_that_asks_for_labels_is_claimed_by_one_that_has_them() -> None:
    capacities = {"a": 64, "b": 64, "c": 64}
    each = seen_by_each(capacities, {"a": ("eu", "gpu"), "b": ("gpu",), "c": ("eu",)})
    slots = [NOW + timedelta(seconds=n) for n in range(200)]
    for labels, able in ((("gpu",), {0, 1}), (("eu", "gpu"), {0}), (("nowhere",), {0, 1, 2})):
        ahead = [[i for i, peers in enumerate(each) if peers.claims("job", slot, labels)] for slot in slots]
        assert all(len(found) == 1 for found in ahead)
        assert {found[0] for found in ahead} == able


def test_who_knows_of_nobody_goes_ahead_everywhere() -> None:
    peers = Peers("a")
    assert peers.alone
    assert peers.claims("job", NOW)
    assert peers.takes(7)


def test_who_is_not_among_the_takers_leaves_everything_to_the_others() -> None:
    peers = Peers("draining")
    peers.see([("a", 5, ())])
    assert not peers.alone
    assert not any(peers.claims(f"job{n}", NOW) or peers.takes(n) for n in range(50))

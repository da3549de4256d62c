"""The fakes that ship: a clock moved by hand, a sink that remembers (the store has the contract suite)."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime, timedelta, timezone

import pytest

import echosched.testing
from echosched.clock import SystemClock
from echosched.errors import StoreUnavailable
from echosched.events import JobPaused, JobResumed, Ready
from echosched.model import Claim, State, Trigger
from echosched.protocols import EventSink
from echosched.testing import FakeClock, MemoryStore, RecordingSink

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)


def test_the_examples_of_the_module_are_true():
    assert doctest.testmod(echosched.testing).failed == 0


def test_a_clock_begins_where_it_is_told_and_speaks_utc():
    clock = FakeClock(datetime(2026, 3, 1, 9, tzinfo=timezone(timedelta(hours=1))))
    assert clock.now() == NOW
    assert clock.now().tzinfo is UTC


def test_advancing_moves_all_three_clocks_alike():
    clock = FakeClock(NOW)
    before = clock.monotonic(), clock.boot()
    clock.advance(timedelta(days=365, microseconds=1))
    assert clock.now() == NOW + timedelta(days=365, microseconds=1)
    assert clock.monotonic() - before[0] == clock.boot() - before[1] == pytest.approx(365 * 86_400)


def test_setting_steps_the_wall_clock_alone():
    clock = FakeClock(NOW)
    before = clock.monotonic(), clock.boot()
    clock.set(NOW - timedelta(hours=1))
    assert clock.now() == NOW - timedelta(hours=1)
    assert (clock.monotonic(), clock.boot()) == before


def test_suspending_rests_the_monotonic_clock():
    clock = FakeClock(NOW)
    before = clock.monotonic(), clock.boot()
    clock.suspend(timedelta(hours=8))
    assert clock.now() == NOW + timedelta(hours=8)
    assert clock.monotonic() == before[0]
    assert clock.boot() - before[1] == 8 * 3_600


def test_time_does_not_pass_backwards_and_naive_instants_are_refused():
    clock = FakeClock(NOW)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="time zone"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001
    assert clock.now() == NOW


def test_subscribers_are_called_after_each_change_until_they_leave():
    clock = FakeClock(NOW)
    seen = []
    leave = clock.subscribe(lambda: seen.append(clock.now()))
    clock.advance(timedelta(seconds=1))
    clock.set(NOW)
    clock.suspend(timedelta(seconds=2))
    leave()
    leave()
    clock.advance(timedelta(seconds=1))
    assert seen == [NOW + timedelta(seconds=1), NOW, NOW + timedelta(seconds=2)]


def test_a_subscriber_may_leave_while_it_is_called():
    clock = FakeClock(NOW)
    seen = []

    def once():
        seen.append("once")
        leave()

    leave = clock.subscribe(once)
    clock.subscribe(lambda: seen.append("always"))
    clock.advance(timedelta(seconds=1))
    clock.advance(timedelta(seconds=1))
    assert seen == ["once", "always", "always"]


def test_the_fake_clock_has_what_the_real_one_has():
    public = {name for name in vars(SystemClock) if not name.startswith("_")}
    assert public <= {name for name in dir(FakeClock) if not name.startswith("_")}


def test_a_sink_keeps_events_in_order_and_finds_them_by_class():
    sink = RecordingSink()
    assert isinstance(sink, EventSink)
    paused = JobPaused(ts=NOW, job="brief")
    resumed = JobResumed(ts=NOW, job="brief")
    ready = Ready(ts=NOW, pid=1, jobs=2)
    for event in (paused, ready, resumed):
        sink.emit(event)
    assert sink.events == [paused, ready, resumed]
    assert sink.of(Ready) == [ready]
    assert sink.names() == ["job_paused", "ready", "job_resumed"]
    sink.clear()
    assert sink.events == []


async def test_a_memory_store_with_a_fault_refuses_writes_and_changes_nothing():
    store = MemoryStore()
    claim = Claim("brief", NOW, Trigger.SCHEDULE, State.RUNNING, NOW)
    store.fault = StoreUnavailable("the disk is full")
    with pytest.raises(StoreUnavailable):
        await store.claim([claim])
    with pytest.raises(StoreUnavailable):
        await store.set_note("a", "b")
    assert await store.history() == []
    store.fault = None
    assert await store.claim([claim]) == [1]

"""The heap against a plain model, and the real wake-ups against the real clock."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from echosched.clock import SystemClock
from echosched.timer import PollingWakeup, TimerfdWakeup, TimerHeap, call_later

OPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9), st.integers(0, 100)),
        st.tuples(st.just("discard"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.integers(0, 100)),
    ),
    max_size=300,
)


@given(OPS)
def test_the_heap_behaves_like_a_dictionary_of_due_times(operations: list[tuple[str, int, int]]) -> None:
    heap: TimerHeap[int] = TimerHeap()
    model: dict[int, int] = {}
    for operation, item, when in operations:
        if operation == "push":
            heap.push(item, when)
            model[item] = when
        elif operation == "discard":
            heap.discard(item)
            model.pop(item, None)
        else:
            due = heap.pop_due(when)
            assert [at for at, _ in due] == sorted(at for at in model.values() if at <= when)
            assert {item for _, item in due} == {item for item, at in model.items() if at <= when}
            model = {item: at for item, at in model.items() if at > when}
        assert len(heap) == len(model)
        assert heap.first() == min(model.values(), default=None)
        assert [at for at, _ in heap.soonest(3)] == sorted(model.values())[:3]


@given(st.lists(st.integers(0, 100)), OPS)
def test_a_heap_that_was_filled_at_once_behaves_like_one_that_grew(
    dues: list[int], operations: list[tuple[str, int, int]]
) -> None:
    filled: TimerHeap[int] = TimerHeap()
    grown: TimerHeap[int] = TimerHeap()
    filled.fill((due, item) for item, due in enumerate(dues))
    for item, due in enumerate(dues):
        grown.push(item, due)
    for operation, item, when in operations:
        for heap in (filled, grown):
            if operation == "push":
                heap.push(item, when)
            elif operation == "discard":
                heap.discard(item)
        if operation == "pop":
            assert filled.pop_due(when) == grown.pop_due(when)
        assert filled.soonest(5) == grown.soonest(5)


async def test_a_timerfd_wakes_at_its_instant_and_not_before() -> None:
    woken: asyncio.Queue[float] = asyncio.Queue()
    wakeup = TimerfdWakeup(asyncio.get_running_loop(), lambda: woken.put_nowait(time.time()))
    try:
        due = time.time() + 0.05
        wakeup.arm(due)
        async with asyncio.timeout(30):
            assert await woken.get() >= due
        wakeup.arm(time.time() - 10)  # the past fires at once
        async with asyncio.timeout(30):
            await woken.get()
        wakeup.arm(None)
        await asyncio.sleep(0.02)
        assert woken.empty()
    finally:
        wakeup.close()


async def test_the_polling_fallback_wakes_too() -> None:
    woken = asyncio.Event()
    wakeup = PollingWakeup(asyncio.get_running_loop(), SystemClock(), woken.set)
    try:
        wakeup.arm(time.time() + 0.02)
        async with asyncio.timeout(30):
            await woken.wait()
    finally:
        wakeup.close()


async def test_a_cancelled_delay_never_calls() -> None:
    called: list[int] = []
    call_later(SystemClock(), 0.01, called.append, 1).cancel()
    call_later(SystemClock(), 0.02, called.append, 2)
    async with asyncio.timeout(30):
        while not called:
            await asyncio.sleep(0.005)
    assert called == [2]

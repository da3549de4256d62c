"""Where the system has no thread left: nothing is disabled for ever, and what runs can still be ended."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.clock import SystemClock
from echosched.errors import ExecutionError
from echosched.executor.keeper import OutputKeeper
from echosched.executor.reaper import Reaper
from echosched.executor.tree import Grave, Undertaker
from echosched.model import Policy, State

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any


@contextmanager
def no_thread_left(*names: str) -> Iterator[None]:
    """Have starts of threads (of these names, else of all) fail as they do at a limit of the system."""
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if not names or self.name in names:
            raise RuntimeError("can't start new thread")
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


def test_an_undertaker_that_got_no_thread_buries_when_there_is_one_again() -> None:
    clock, done = SystemClock(), threading.Event()
    undertaker = Undertaker(clock)

    def bury() -> None:
        nobody = Grave(b"x", 2**30, 0, False, clock.monotonic() + 1, lambda _: done.set())
        undertaker.bury(nobody)

    with no_thread_left(), pytest.raises(RuntimeError):
        bury()
    bury()
    assert done.wait(20)
    undertaker.close()


def test_parts_that_got_no_thread_can_be_closed() -> None:
    clock = SystemClock()
    undertaker, keeper, reaper = Undertaker(clock), OutputKeeper(clock), Reaper(None, None)
    with no_thread_left():
        for part in (undertaker, keeper, reaper):
            with pytest.raises(RuntimeError):
                part.start()
    reaper.close()
    reaper.join()
    undertaker.close()
    keeper.close()


def test_a_keeper_that_got_no_thread_does_its_errands_when_there_is_one_again() -> None:
    keeper, done = OutputKeeper(SystemClock()), threading.Event()
    with no_thread_left(), pytest.raises(RuntimeError):
        keeper.beside(done.set)
    keeper.beside(lambda: None)
    assert done.wait(20)
    keeper.close()


@pytest.mark.parametrize("name", ["undertaker", "output", "reaper", "spawner-2"])
async def test_a_start_without_a_thread_is_refused_with_the_reason_and_the_next_one_is_not(
    rig: Rig, name: str
) -> None:
    with no_thread_left(name), pytest.raises(ExecutionError, match="no new thread: can't start new thread"):
        await rig.run("echo hello")
    result, output = await rig.run("echo hello")
    assert (result.state, output) == (State.SUCCEEDED, "hello\n")
    result, _ = await rig.run("sleep 60", policy=Policy(timeout=timedelta(seconds=0.2)))
    assert result.state is State.TIMED_OUT


async def test_what_runs_is_ended_and_held_to_its_limit_where_no_thread_is_left(rig: Rig) -> None:
    await rig.run("true")
    policy = Policy(timeout=timedelta(seconds=1), output_limit=10_000)
    with no_thread_left():
        attempt = rig.attempt("while :; do seq 1 1000; done", policy=policy)
        execution = await rig.executor.start(attempt)
        result = await asyncio.wait_for(execution.wait(), 30)
        execution.settle()
    assert (result.state, result.error) == (State.TIMED_OUT, "timed out after 1 s")
    assert "bytes left out" in rig.output(attempt)
    assert len(rig.output(attempt)) < 20_000


async def test_an_executor_closes_where_no_thread_is_left(rigs: Rigs) -> None:
    rig = rigs()
    await rig.run("true")
    with no_thread_left():
        await asyncio.wait_for(rig.executor.close(), 20)


def test_an_errand_after_the_close_writes_to_nobody(tmp_path: Path) -> None:
    keeper, done = OutputKeeper(SystemClock()), threading.Event()
    keeper.beside(done.set)
    assert done.wait(20)
    keeper.close()
    # Whoever opens something now gets the numbers that the keeper has given back.
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(4)]
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        keeper.beside(lambda: None)
        keeper.watch(str(tmp_path / "other"), 10)
        for reading, _ in pipes:
            with pytest.raises(BlockingIOError):
                os.read(reading, 1)
        assert os.fstat(file).st_size == 0
    finally:
        for descriptor in (*(end for pipe in pipes for end in pipe), file):
            os.close(descriptor)

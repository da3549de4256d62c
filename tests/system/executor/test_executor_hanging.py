"""Starts that do not come back, as on a disk that does not answer: the others go on, and so does a close."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from echosched.executor import spawners
from echosched.model import CommandAction, State

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

PATIENCE_SECONDS = 40.0
HANGS = CommandAction(("true", "hang"))


class DeadDisk:
    """Resolves references on a disk that answers only after :meth:`revive`, and after a minute at the latest."""

    def __init__(self) -> None:
        self._alive = threading.Event()
        self.revive = self._alive.set

    def __call__(self, text: str) -> str:
        if text == "hang":
            self._alive.wait(60)
        return text


@pytest.fixture
def disk() -> Iterator[DeadDisk]:
    made = DeadDisk()
    yield made
    made.revive()


def threads() -> int:
    return sum(thread.name.startswith("spawner-") for thread in threading.enumerate())


def hang(rig: Rig, count: int, action: CommandAction = HANGS) -> list[asyncio.Task[Any]]:
    """Begin *count* starts that hang."""
    return [asyncio.ensure_future(rig.executor.start(rig.attempt(action))) for _ in range(count)]


async def succeed(starts: list[asyncio.Task[Any]]) -> None:
    for execution in await asyncio.wait_for(asyncio.gather(*starts), PATIENCE_SECONDS):
        assert (await asyncio.wait_for(execution.wait(), PATIENCE_SECONDS)).state is State.SUCCEEDED
        execution.settle()


async def test_a_healthy_job_starts_while_all_threads_hang(
    rigs: Rigs, disk: DeadDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawners, "_SPARE_SECONDS", 0.2)
    rig = rigs(resolve=disk)
    rig.executor.warm()
    before = threads()
    starts = hang(rig, 12)
    result, output = await asyncio.wait_for(rig.run("echo hello"), PATIENCE_SECONDS)
    assert (result.state, output) == (State.SUCCEEDED, "hello\n")
    assert not any(start.done() for start in starts)
    disk.revive()
    await succeed(starts)
    await rig.until(lambda: threads() == before)  # those that were added go again


async def test_a_healthy_job_starts_while_the_kernel_starts_no_other(rig: Rig, stalled: Any) -> None:
    starts = hang(rig, 5, CommandAction((stalled.path,)))
    result, output = await asyncio.wait_for(rig.run("echo hello"), PATIENCE_SECONDS)
    assert (result.state, output) == (State.SUCCEEDED, "hello\n")
    assert not any(start.done() for start in starts)
    stalled.release()
    await succeed(starts)


async def test_a_job_starts_while_what_others_need_is_made_ready(rigs: Rigs, disk: DeadDisk) -> None:
    rig = rigs(resolve=disk)
    for _ in range(4):  # one after another: what comes together is made ready by one thread
        rig.executor.prepare(rig.attempt(HANGS), *[lambda _: None] * 3, early=True)
        await asyncio.sleep(0.1)
    result, _ = await asyncio.wait_for(rig.run("echo hello"), PATIENCE_SECONDS)
    assert result.state is State.SUCCEEDED


async def test_a_crowd_that_does_not_get_on_is_a_burst_no_longer_and_takes_no_thread_without_end(
    rigs: Rigs, disk: DeadDisk
) -> None:
    burst: list[bool] = []
    rig = rigs(resolve=disk, on_crowd=lambda *, heavily: burst.append(heavily))
    rig.executor.warm()
    before = threads()
    starts = hang(rig, 80)
    await rig.until(lambda: burst == [True, False])
    assert threads() - before == 60  # and the four that there are always
    disk.revive()
    await succeed(starts)
    assert burst.count(True) == burst.count(False)


async def test_starts_that_hang_are_told_once_and_that_they_do_no_more(
    rigs: Rigs, disk: DeadDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spawners, "_TOLD_SECONDS", 1.0)
    rig = rigs(resolve=disk)
    starts = hang(rig, 2)
    hanging = rig.executor.processes.spawners.hanging
    await rig.until(lambda: hanging() == ["job"])
    await asyncio.sleep(1.5)
    disk.revive()
    await succeed(starts)
    await rig.until(lambda: len(told(caplog)) == 2)
    assert told(caplog) == [
        "starts hang, of job: a directory, program or file on a disk that does not answer?",
        "no start hangs any more",
    ]
    assert hanging() == []


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == spawners.__name__]


async def test_a_close_does_not_wait_for_starts_that_hang_and_what_comes_of_them_runs_on(
    rigs: Rigs, disk: DeadDisk, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(resolve=disk)
    starts = hang(rig, 5)
    waiting = rig.attempt("echo waiting")
    starts.append(asyncio.ensure_future(rig.executor.start(waiting)))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(rig.executor.close(), PATIENCE_SECONDS)
    with pytest.raises(Exception, match="not started: the executor was closed"):
        await starts.pop()
    reported = len(rig.reported)
    disk.revive()
    await rig.until(lambda: len(rig.reported) == reported + 4)  # the supervisor is told of them
    await asyncio.sleep(0.1)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    for start in starts:
        start.cancel()
    await asyncio.gather(*starts, return_exceptions=True)

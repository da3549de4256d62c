"""A process that the kernel will not watch for us ends all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echosched.clock import SystemClock
from echosched.executor import CommandExecutor, ExecutorOptions
from echosched.executor.watch import ExitWatch
from echosched.model import Attempt, CommandAction, Job, State, Trigger

DEADLINE_SECONDS = 30.0


class FullEpoll:
    """The kernel's own, for an account that has used up its watches (fs.epoll.max_user_watches)."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def register(self, descriptor: int, events: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def unwatchable(tmp_path: Path) -> Iterator[int]:
    """A descriptor that epoll refuses: a file is always ready."""
    with open(tmp_path / "file", "wb") as file:
        yield file.fileno()


async def test_what_could_not_be_watched_is_forgotten_without_a_word(unwatchable: int) -> None:
    watch = ExitWatch(asyncio.get_running_loop())
    try:
        with pytest.raises(PermissionError):
            watch.add(unwatchable, lambda: None)
        watch.remove(unwatchable)
    finally:
        watch.close()


async def test_what_the_kernel_has_forgotten_by_itself_can_be_forgotten() -> None:
    watch = ExitWatch(asyncio.get_running_loop())
    reader, writer = os.pipe()
    try:
        watch.add(reader, lambda: None)
        os.close(reader)
        watch.remove(reader)
    finally:
        os.close(writer)
        watch.close()


async def test_a_run_ends_though_no_more_can_be_watched(caplog: pytest.LogCaptureFixture) -> None:
    executor = CommandExecutor(ExecutorOptions(clock=SystemClock(), instance="test-watch"))
    executor.warm()
    watch: Any = executor.exits
    watch._epoll = FullEpoll(watch._epoll)
    job = Job("job", CommandAction(("sh", "-c", "exit 3")))
    try:
        execution = await executor.start(Attempt(1, job, None, 1, Trigger.MANUAL, None))
        result = await asyncio.wait_for(execution.wait(), DEADLINE_SECONDS)
        execution.settle()
    finally:
        await executor.close()
    assert (result.state, result.exit_code) == (State.FAILED, 3)
    assert "no more can be watched" in caplog.text

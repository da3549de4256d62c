"""An executor on real processes, and short ways to describe attempts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from echosched.clock import SystemClock
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.executor.environment import MARK
from echosched.model import (
    DEFAULT_POLICY,
    DEFAULT_PROCESS,
    Action,
    Attempt,
    CommandAction,
    Job,
    Policy,
    Process,
    Result,
    Trigger,
)

DEADLINE_SECONDS = 60.0


class Rig:
    """An :class:`ActionExecutor` with an instance name of its own, and what it told the supervisor."""

    def __init__(self, directory: Path, instance: str, **options: Any) -> None:
        self.directory = directory
        self.instance = instance
        self.reported: list[tuple[str, int, int]] = []
        self.settled: list[tuple[int, int]] = []
        options = {
            "report_child": lambda *told: self.reported.append(told),
            "on_settled": lambda *told: self.settled.extend(told),
            **options,
        }
        self.executor = ActionExecutor(ExecutorOptions(clock=SystemClock(), instance=instance, **options))
        self._numbers = itertools.count(1)

    def attempt(
        self,
        action: Action | str,
        *,
        process: Process = DEFAULT_PROCESS,
        policy: Policy = DEFAULT_POLICY,
        output: bool = True,
        **job: Any,
    ) -> Attempt:
        """Return an attempt of a new run; a string is a command."""
        if isinstance(action, str):
            action = CommandAction(action)
        number = next(self._numbers)
        path = str(self.directory / f"{number}.1.log") if output else None
        return Attempt(
            number, Job("job", action, process=process, policy=policy, **job), None, 1, Trigger.MANUAL, path
        )

    async def run(self, action: Action | str, **options: Any) -> tuple[Result, str]:
        """Run *action* to its end; return the result and the output."""
        attempt = self.attempt(action, **options)
        execution = await self.executor.start(attempt)
        result = await asyncio.wait_for(execution.wait(), DEADLINE_SECONDS)
        execution.settle()
        return result, self.output(attempt)

    def output(self, attempt: Attempt) -> str:
        """Return what *attempt* printed."""
        if attempt.output_path is None:
            return ""
        return Path(attempt.output_path).read_text(errors="replace")

    def alive(self) -> list[int]:
        """Return the pids of living processes that carry this rig's mark."""
        needle = f"{MARK}={self.instance}:".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    if needle in Path(f"/proc/{name}/environ").read_bytes():
                        found.append(int(name))
        return found

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until *condition* holds; return what it returned."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (held := condition()):
            assert time.monotonic() < deadline, "the condition did not come about"
            await asyncio.sleep(0.02)
        return held

    async def close(self) -> None:
        """Close the executor and end what still runs with its mark."""
        await self.executor.close()
        for pid in self.alive():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig whose processes are gone afterwards."""
    runs = tmp_path / "runs"
    runs.mkdir()
    made = Rig(runs, f"test-{uuid.uuid4().hex[:12]}")
    yield made
    await made.close()


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Callable[..., Rig]]:
    """Makes further rigs, with options."""
    made: list[Rig] = []

    def make(instance: str | None = None, **options: Any) -> Rig:
        runs = tmp_path / f"runs-{len(made)}"
        runs.mkdir()
        made.append(Rig(runs, instance or f"test-{uuid.uuid4().hex[:12]}", **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()

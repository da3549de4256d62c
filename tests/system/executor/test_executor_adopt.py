"""Processes outlive the worker that started them; the next one watches them to the end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import echosched
from echosched.clock import SystemClock
from echosched.executor import never_started, proc, unbar
from echosched.model import Attempt, CommandAction, Job, Policy, ProcessIdentity, State, Trigger

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

STARTER = Path(__file__).with_name("starter.py")
PR_SET_CHILD_SUBREAPER = 36


class Earlier:
    """An earlier worker in a process of its own."""

    def __init__(self, directory: Path, commands: tuple[str, ...]) -> None:
        self.instance = f"test-{os.getpid()}-{time.monotonic_ns()}"
        self.directory = directory
        root = str(Path(echosched.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, str(STARTER), self.instance, str(directory), *commands],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.children: dict[str, ProcessIdentity] = {}
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "ready\n":
                break
            tag, pid, ticks = line.split()
            self.children[tag] = ProcessIdentity(int(pid), int(ticks))
        assert len(self.children) == len(commands)

    def attempt(self, number: int, policy: Policy | None = None, command: str = "true") -> Attempt:
        job = Job("job", CommandAction(command), policy=policy or Policy())
        return Attempt(number, job, None, 1, Trigger.MANUAL, f"{self.directory}/{number}.1.log")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Callable[..., Earlier]]:
    made: list[Earlier] = []

    def start(*commands: str) -> Earlier:
        directory = tmp_path / f"earlier-{len(made)}"
        directory.mkdir()
        made.append(Earlier(directory, commands))
        return made[-1]

    yield start
    for each in made:
        each.kill()
        assert each.process.stdout is not None
        each.process.stdout.close()
        for child in each.children.values():
            stat = proc.read_stat(child.pid)
            if stat is not None and stat.start_ticks == child.start_ticks:
                os.kill(child.pid, signal.SIGKILL)


@pytest.fixture
def subreaper() -> Iterator[None]:
    """This process takes on orphans, as the supervisor does."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_a_killed_worker_s_job_keeps_output_and_exit_code(
    earlier: Any, rigs: Rigs, subreaper: None
) -> None:
    before = earlier("echo begun; sleep 0.5; echo ended; exit 7")
    before.kill()
    rig = rigs(instance=before.instance)
    execution = rig.executor.adopt(before.attempt(1), before.children["1.1"])
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.exit_code, result.error) == (State.FAILED, 7, "exit code 7")
    assert rig.output(before.attempt(1)) == "begun\nended\n"
    execution.settle()


async def test_an_exit_that_the_supervisor_reaped_is_taken_from_it(earlier: Any, rigs: Rigs) -> None:
    before = earlier("sleep 60")
    rig = rigs(instance=before.instance, exit_status=lambda pidfd, pid: None, patience_seconds=100.0)
    child = before.children["1.1"]
    execution = rig.executor.adopt(before.attempt(1), child)
    assert execution.process == child
    os.kill(child.pid, signal.SIGTERM)
    await asyncio.sleep(0.3)
    rig.executor.child_exit("1.1", child.pid, child.start_ticks, -15)
    result = await asyncio.wait_for(execution.wait(), 60)  # and not after its own patience
    assert (result.state, result.signal, result.error) == (State.FAILED, 15, "killed by signal 15 (SIGTERM)")
    execution.settle()
    await rig.until(lambda: rig.settled)
    assert rig.settled == [(child.pid, child.start_ticks)]


async def test_an_exit_told_before_the_adoption_is_kept_for_it(rig: Rig) -> None:
    gone = ProcessIdentity(2**22 - 1, 1)
    rig.executor.child_exit("1.1", gone.pid, gone.start_ticks, 0)
    execution = rig.executor.adopt(rig.attempt("true"), gone)
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.exit_code) == (State.SUCCEEDED, 0)


async def test_success_codes_hold_for_adopted_runs_too(rig: Rig) -> None:
    gone = ProcessIdentity(2**22 - 1, 1)
    rig.executor.child_exit("1.1", gone.pid, gone.start_ticks, 3)
    execution = rig.executor.adopt(rig.attempt(CommandAction("exit 3", success_codes=(3,))), gone)
    assert (await asyncio.wait_for(execution.wait(), 60)).state is State.SUCCEEDED


async def test_a_stranger_whose_exit_nobody_knows_is_abandoned(rigs: Rigs) -> None:
    rig = rigs(exit_status=lambda pidfd, pid: None, patience_seconds=0.2)
    stranger = subprocess.Popen(["sh", "-c", "sleep 0.3 & exec sleep 60"], start_new_session=True)
    try:
        process = ProcessIdentity(stranger.pid, proc.start_ticks(stranger.pid))
        # As after the supervisor's death: not our child. (Here it is; the executor must not notice.)
        execution = rig.executor.adopt(rig.attempt("true"), process)
        execution.own = False
        await asyncio.sleep(0.1)
        stranger.kill()
        stranger.wait()
        result = await asyncio.wait_for(execution.wait(), 60)
    finally:
        stranger.kill()
        stranger.wait()
    assert result.state is State.ABANDONED
    assert result.error is not None
    assert "exit code could not be learned" in result.error


async def test_the_kernel_tells_the_exit_of_a_stranger(earlier: Any, rigs: Rigs) -> None:
    # The earlier worker lives and has the process as its zombie: nobody tells us but /proc and the pidfd.
    before = earlier("sleep 0.5; exit 9", "sleep 0.5; kill -9 $$")
    rig = rigs(instance=before.instance, patience_seconds=0.5)
    executions = [rig.executor.adopt(before.attempt(n), before.children[f"{n}.1"]) for n in (1, 2)]
    first, second = [await asyncio.wait_for(each.wait(), 60) for each in executions]
    assert (first.exit_code, second.signal) == (9, 9)


async def test_a_recycled_pid_is_not_adopted(rigs: Rigs) -> None:
    rig = rigs(patience_seconds=0.2)
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        ticks = proc.start_ticks(innocent.pid)
        execution = rig.executor.adopt(rig.attempt("true"), ProcessIdentity(innocent.pid, ticks - 1000))
        execution.cancel("time to go", state=State.CANCELLED, kill_after=timedelta(0))
        result = await asyncio.wait_for(execution.wait(), 60)
        assert result.state in (State.ABANDONED, State.CANCELLED)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


async def test_a_time_out_counts_from_the_run_s_own_start(earlier: Any, rigs: Rigs) -> None:
    before = earlier("setsid sleep 60 & sleep 60")
    await asyncio.sleep(1.0)
    rig = rigs(instance=before.instance)
    policy = Policy(timeout=timedelta(seconds=1.5), kill_after=timedelta(seconds=5))
    begun = time.monotonic()
    execution = rig.executor.adopt(before.attempt(1, policy), before.children["1.1"])
    age = (SystemClock().now() - execution.started_at).total_seconds()
    assert 0.9 < age < 30
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is State.TIMED_OUT
    assert time.monotonic() - begun < 1.4 + 15
    assert rig.alive() == [before.process.pid] or rig.alive() == []


async def test_a_time_out_that_passed_while_nobody_watched_acts_at_once(earlier: Any, rigs: Rigs) -> None:
    before = earlier("sleep 60")
    before.kill()
    await asyncio.sleep(0.6)
    rig = rigs(instance=before.instance)
    execution = rig.executor.adopt(
        before.attempt(1, Policy(timeout=timedelta(seconds=0.5))), before.children["1.1"]
    )
    assert (await asyncio.wait_for(execution.wait(), 60)).state is State.TIMED_OUT


async def test_an_adopted_run_can_be_cancelled_with_its_tree(earlier: Any, rigs: Rigs) -> None:
    before = earlier("setsid sleep 60 & (trap '' TERM; sleep 60) & sleep 60")
    rig = rigs(instance=before.instance)
    before.kill()
    await rig.until(lambda: len(rig.alive()) >= 4)
    execution = rig.executor.adopt(before.attempt(1), before.children["1.1"])
    execution.cancel("stop", state=State.CANCELLED, kill_after=timedelta(seconds=0.3))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.error) == (State.CANCELLED, "stop")
    assert rig.alive() == []


async def test_a_run_whose_pid_was_never_recorded_is_found_by_its_mark(earlier: Any, rigs: Rigs) -> None:
    before = earlier("setsid sleep 60 & sleep 60", "sleep 60")
    rig = rigs(instance=before.instance)
    assert rig.executor.processes.find(before.attempt(1)) == before.children["1.1"]
    assert rig.executor.processes.find(before.attempt(2)) == before.children["2.1"]
    assert rig.executor.processes.find(before.attempt(3)) is None
    assert set(rig.executor.find_all()) == {"1.1", "2.1"}
    assert rigs().executor.processes.find(before.attempt(1)) is None


async def test_a_killed_spawner_s_burst_is_accounted_for(earlier: Any, rigs: Rigs, subreaper: None) -> None:
    commands = [f"echo {n}; sleep 1; exit {n}" for n in range(1, 31)]
    before = earlier(*commands)
    before.kill()
    rig = rigs(instance=before.instance)
    executions = [rig.executor.adopt(before.attempt(n), before.children[f"{n}.1"]) for n in range(1, 31)]
    results = [await asyncio.wait_for(each.wait(), 60) for each in executions]
    assert [result.exit_code for result in results] == list(range(1, 31))
    for each in executions:
        each.settle()
    await rig.until(lambda: len(rig.settled) == 30)


async def test_never_started_is_proved_by_standing_in_the_way(rig: Rig) -> None:
    attempt = rig.attempt("echo ran")
    assert attempt.output_path is not None
    assert never_started(attempt.output_path)
    assert never_started(attempt.output_path)  # also when asked twice, or by the worker after this one
    # A start that was still under way in a dying worker comes too late now.
    with pytest.raises(Exception, match="begun before"):
        await rig.executor.start(attempt)
    assert never_started(attempt.output_path)
    unbar(attempt.output_path)
    execution = await rig.executor.start(attempt)
    await execution.wait()
    assert rig.output(attempt) == "ran\n"
    started = rig.attempt("true")
    await rig.executor.start(started)
    assert started.output_path is not None
    assert not never_started(started.output_path)

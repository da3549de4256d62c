"""Time-outs and cancels reach everything that a job has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.model import Attempt, CommandAction, Policy, Process, Result, State

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing accounts needs root")


DEAF = "trap '' TERM; echo ready; while :; do sleep 60; done"


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def python(code: str) -> CommandAction:
    return CommandAction((sys.executable, "-S", "-c", textwrap.dedent(code)))


async def ended_once_ready(rig: Rig, attempt: Attempt, *, kill_after: float) -> Result:
    """Begin *attempt*; once it has printed a first line, end it as a time-out does; return the result."""
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: rig.output(attempt))
    execution.cancel("timed out", state=State.TIMED_OUT, kill_after=seconds(kill_after))
    return await asyncio.wait_for(execution.wait(), 60)


async def test_a_time_out_ends_the_command_with_term(rig: Rig) -> None:
    result, _ = await rig.run("sleep 60", policy=Policy(timeout=seconds(0.2)))
    assert (result.state, result.signal, result.error) == (State.TIMED_OUT, 15, "timed out after 0.2 s")


async def test_a_command_may_end_in_order_within_kill_after(rig: Rig) -> None:
    attempt = rig.attempt(
        "trap 'echo cleaning; exit 7' TERM; echo ready; for _ in $(seq 1200); do sleep 0.05; done"
    )
    result = await ended_once_ready(rig, attempt, kill_after=20)
    assert (result.state, result.exit_code) == (State.TIMED_OUT, 7)
    assert rig.output(attempt).endswith("cleaning\n")


async def test_each_process_hears_term_only_once(rig: Rig) -> None:
    # Many programs take a second TERM as "drop everything".
    attempt = rig.attempt(
        python(
            """
            import signal, time
            end = time.monotonic() + 60
            def term(*_):
                global end
                print("term", flush=True)
                end = time.monotonic() + 1
            signal.signal(signal.SIGTERM, term)
            print("ready", flush=True)
            while time.monotonic() < end: time.sleep(0.05)
            """
        )
    )
    result = await ended_once_ready(rig, attempt, kill_after=60)
    assert (result.state, result.exit_code, rig.output(attempt)) == (State.TIMED_OUT, 0, "ready\nterm\n")


async def test_a_command_that_ignores_term_is_killed_after_kill_after(rig: Rig) -> None:
    begun = time.monotonic()
    result = await ended_once_ready(rig, rig.attempt(DEAF), kill_after=0.5)
    assert (result.state, result.signal) == (State.TIMED_OUT, signal.SIGKILL)
    assert 0.5 <= time.monotonic() - begun < 30
    assert rig.alive() == []


async def test_a_stopped_command_is_continued_to_end(rig: Rig) -> None:
    attempt = rig.attempt(
        "trap 'exit 3' TERM; kill -STOP $$; sleep 60", policy=Policy(kill_after=seconds(20))
    )
    execution = await rig.executor.start(attempt)
    pid = execution.process.pid
    await rig.until(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("T"))
    execution.cancel("cancelled by test", state=State.CANCELLED, kill_after=seconds(20))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.exit_code, result.error) == (State.CANCELLED, 3, "cancelled by test")


@pytest.mark.parametrize(
    "command",
    [
        "setsid sleep 60 & sleep 60",
        "sleep 60 & sleep 60 | sleep 60",
        "(setsid sh -c '(setsid sleep 60 &) ; sleep 60' &) ; sleep 60",
        # Without the mark, but in a session of the job's, or a child of somebody in the tree:
        "env -i setsid sleep 60 & sleep 60",
        "setsid sh -c 'env -i sleep 60 & sleep 60' & sleep 60",
        "trap '' TERM; nohup sleep 60 & sleep 60",
    ],
)
async def test_descendants_are_ended_wherever_they_went(rig: Rig, command: str) -> None:
    mine = f"60.{os.getpid()}"  # what sleeps so long is ours
    command = command.replace("60", mine)
    attempt = rig.attempt(command, policy=Policy(kill_after=seconds(0.5)))
    execution = await rig.executor.start(attempt)
    wanted = command.count("sleep")
    await rig.until(lambda: len(sleepers(mine)) == wanted)
    execution.cancel("enough", state=State.CANCELLED, kill_after=seconds(0.5))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is State.CANCELLED
    assert sleepers(mine) == []


async def test_a_daemon_that_a_job_left_behind_dies_with_a_cancel(rig: Rig) -> None:
    daemonize = """
        import os, time
        if os.fork():
            time.sleep(60)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 100)
        os.chdir("/")
        time.sleep(60)
    """
    execution = await rig.executor.start(rig.attempt(python(daemonize)))
    await rig.until(lambda: len(rig.alive()) == 2)
    execution.cancel("enough", state=State.CANCELLED, kill_after=seconds(5))
    assert (await asyncio.wait_for(execution.wait(), 60)).state is State.CANCELLED
    assert rig.alive() == []


async def test_a_tree_of_300_processes_is_gone_on_time_out(rig: Rig) -> None:
    # A third each: in the group, in sessions of their own, daemonized away from their parents; every
    # other one deaf to TERM.
    code = """
        import os, signal, time
        for number in range(299):
            if os.fork() == 0:
                if number % 3:
                    os.setsid()
                if number % 3 == 2 and os.fork():
                    os._exit(0)
                if number % 2:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(120)
                os._exit(0)
        print("grown", flush=True)
        time.sleep(120)
    """
    attempt = rig.attempt(python(code), policy=Policy(timeout=timedelta(minutes=5)))
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: rig.output(attempt) == "grown\n")
    await rig.until(lambda: len(rig.alive()) == 300)
    execution.cancel("timed out", state=State.TIMED_OUT, kill_after=seconds(0.5))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is State.TIMED_OUT
    assert rig.alive() == []


async def test_a_tree_that_keeps_forking_is_gone_on_time_out(rig: Rig, tmp_path: Path) -> None:
    # Whatever lives leaves a trace: what no scan of /proc is fast enough to see is seen here.
    trace = tmp_path / "trace"
    code = f"""
        import os, signal, time
        end = time.monotonic() + 90  # should all else fail
        trace = os.open({str(trace)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(8):
            if os.fork() == 0:
                break
        else:
            time.sleep(90)  # the main process stays, or there would be no time-out
        while time.monotonic() < end:
            os.write(trace, b".")
            if os.fork():
                time.sleep(0.01)
                os._exit(0)
            os.setsid()
    """
    execution = await rig.executor.start(rig.attempt(python(code)))
    await rig.until(lambda: trace.exists() and trace.stat().st_size > 300)
    execution.cancel("timed out", state=State.TIMED_OUT, kill_after=seconds(0.3))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is State.TIMED_OUT
    size = trace.stat().st_size
    await asyncio.sleep(0.5)
    assert trace.stat().st_size == size
    assert rig.alive() == []


async def test_the_end_waits_for_the_tree_and_not_only_for_the_main_process(rig: Rig) -> None:
    attempt = rig.attempt("(trap '' TERM; echo deaf; sleep 60) & exec sleep 60")
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: rig.output(attempt))
    begun = time.monotonic()
    execution.cancel("enough", state=State.CANCELLED, kill_after=seconds(1))
    await execution.wait()
    assert time.monotonic() - begun >= 0.9
    assert rig.alive() == []


async def test_a_second_cancel_brings_the_kill_forward(rig: Rig) -> None:
    attempt = rig.attempt(DEAF)
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: rig.output(attempt))
    execution.cancel("first reason", state=State.CANCELLED, kill_after=seconds(600))
    await asyncio.sleep(0.2)
    execution.cancel("second reason", state=State.TIMED_OUT, kill_after=seconds(0))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.error, result.signal) == (State.CANCELLED, "first reason", signal.SIGKILL)


async def test_a_cancel_after_the_end_changes_nothing(rig: Rig) -> None:
    execution = await rig.executor.start(rig.attempt("exit 4"))
    result = await execution.wait()
    execution.cancel("too late", state=State.CANCELLED, kill_after=seconds(0))
    assert await execution.wait() is result
    execution.settle()
    execution.cancel("much too late", state=State.CANCELLED, kill_after=seconds(0))
    assert (await execution.wait()).exit_code == 4


async def test_many_runs_are_ended_together(rig: Rig) -> None:
    executions = [await rig.executor.start(rig.attempt("setsid sleep 60 & sleep 60")) for _ in range(30)]
    await rig.until(lambda: len(rig.alive()) >= 60)
    for execution in executions:
        execution.cancel("the scheduler was stopped", state=State.CANCELLED, kill_after=seconds(5))
    results = await asyncio.wait_for(asyncio.gather(*(each.wait() for each in executions)), 60)
    assert {result.state for result in results} == {State.CANCELLED}
    assert rig.alive() == []


async def test_ending_one_run_leaves_its_neighbours_alone(rig: Rig) -> None:
    victim = await rig.executor.start(rig.attempt("setsid sleep 60 & sleep 60"))
    neighbour = await rig.executor.start(rig.attempt("setsid sleep 60 & sleep 60"))
    await rig.until(lambda: len(rig.alive()) >= 4)
    victim.cancel("enough", state=State.CANCELLED, kill_after=seconds(1))
    await asyncio.wait_for(victim.wait(), 60)
    assert neighbour.process.pid in rig.alive()
    assert len(rig.alive()) >= 2


@as_root
async def test_a_job_of_another_user_is_ended_too(rig: Rig) -> None:
    result, _ = await rig.run(
        "trap '' TERM; setsid sleep 60 & sleep 60",
        process=Process(user="nobody"),
        policy=Policy(timeout=seconds(0.3), kill_after=seconds(0.3)),
    )
    assert result.state is State.TIMED_OUT
    assert rig.alive() == []


async def test_ending_a_tree_does_not_stop_the_loop(rig: Rig) -> None:
    code = """
        import os, time
        for _ in range(150):
            if os.fork() == 0:
                os.setsid()
                break
        time.sleep(60)
    """
    execution = await rig.executor.start(rig.attempt(python(code)))
    await rig.until(lambda: len(rig.alive()) == 151)
    # Processor time, not the clock's: what other programs take on a busy machine is not our stall.
    loop, everything = time.thread_time(), time.process_time()
    execution.cancel("enough", state=State.CANCELLED, kill_after=seconds(5))
    await asyncio.wait_for(execution.wait(), 60)
    loop, everything = time.thread_time() - loop, time.process_time() - everything
    assert loop < 0.1
    assert loop < everything / 2


@pytest.fixture
def delegated(tmp_path: Path) -> Iterator[str]:
    """A cgroup of the version 2 hierarchy that is ours."""
    mount = next(
        (
            fields[4]
            for fields in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
            if "cgroup2" in fields[fields.index("-") :]
        ),
        None,
    )
    path = f"{mount}/echosched-test-{tmp_path.name}-{os.getpid()}"
    try:
        assert mount is not None
        os.mkdir(path)
    except (OSError, AssertionError):
        pytest.skip("no cgroup of version 2 is ours to write to")
    yield path
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


ESCAPED = """
    import os, sys, time
    end = time.monotonic() + 60
    while "run-1.1" not in open("/proc/self/cgroup").read() and time.monotonic() < end:
        time.sleep(0.01)  # what forks before it has been moved stays where it was
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
        os._exit(0)
    os.wait()
    time.sleep(60)
"""


def sleepers(seconds: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{name}/cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                    found.append(int(name))
    return found


async def test_with_a_cgroup_even_what_left_every_other_trace_is_ended(rigs: Rigs, delegated: str) -> None:
    rig, mine = rigs(cgroup=delegated), f"61.{os.getpid()}"
    action = CommandAction((sys.executable, "-S", "-c", textwrap.dedent(ESCAPED), mine))
    execution = await rig.executor.start(rig.attempt(action))
    await rig.until(lambda: sleepers(mine))
    assert os.listdir(f"{delegated}/run-1.1")
    execution.cancel("enough", state=State.CANCELLED, kill_after=seconds(5))
    assert (await asyncio.wait_for(execution.wait(), 60)).state is State.CANCELLED
    assert sleepers(mine) == []
    execution.settle()
    await rig.until(lambda: not os.path.exists(f"{delegated}/run-1.1"))


async def test_cgroups_of_ended_runs_are_removed_also_when_somebody_stayed(
    rigs: Rigs, delegated: str
) -> None:
    rig = rigs(cgroup=delegated)
    moved = "for _ in $(seq 600); do grep -q run-1.1 /proc/$$/cgroup && break; sleep 0.1; done"
    for command in (f"{moved}; sleep 60 &", "true"):
        execution = await rig.executor.start(rig.attempt(command))
        assert (await execution.wait()).state is State.SUCCEEDED
        execution.settle()
    await rig.until(
        lambda: os.path.exists(f"{delegated}/run-1.1") and not os.path.exists(f"{delegated}/run-2.1")
    )
    for pid in rig.alive():
        os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: not rig.alive())
    await rig.run("true")
    await rig.until(lambda: not any(Path(delegated).glob("run-*")))


async def test_a_cgroup_that_is_not_ours_fails_no_run(rigs: Rigs) -> None:
    rig = rigs(cgroup="/proc/self/no-such-place")
    result, _ = await rig.run("echo fine")
    assert result.state is State.SUCCEEDED
    assert (await rig.run("sleep 60", policy=Policy(timeout=seconds(0.2))))[0].state is State.TIMED_OUT


async def test_a_large_tree_is_ended_with_few_descriptors(rig: Rig) -> None:
    # Ignores TERM, so that all of it is waited for until the KILL. Each one ends by itself after a minute.
    attempt = rig.attempt(
        "trap '' TERM; n=0; while [ $n -lt 120 ]; do sleep 60 & n=$((n + 1)); done; echo all; wait"
    )
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: "all" in rig.output(attempt))
    execution.cancel("test", state=State.CANCELLED, kill_after=seconds(1.5))
    ended = asyncio.ensure_future(execution.wait())
    most = 0
    while not ended.done():
        most = max(most, pidfds())
        await asyncio.sleep(0.01)
    assert (ended.result().state, rig.alive()) == (State.CANCELLED, [])
    assert 60 <= most <= 70
    execution.settle()


def pidfds() -> int:
    """Return how many pidfds this program has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[pidfd]"
    return found

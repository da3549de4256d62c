"""Output is held to its limit while the job runs, and closed up at its end."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.executor import output
from echosched.model import CommandAction, Policy, State
from tests.system.conftest import waiting

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

LIMIT = 100_000
NOTE = re.compile("\n… (\\d+) bytes left out …\n")


NOISY = """
import time
end = time.monotonic() + 90
while time.monotonic() < end:
    print(LINES, flush=True)
    time.sleep(0.01)
"""


def on_disk(path: str) -> int:
    return os.stat(path).st_blocks * 512


async def test_a_long_output_keeps_its_first_and_last_part(rig: Rig) -> None:
    result, text = await rig.run("seq 1 100000; exit 3", policy=Policy(output_limit=1000))
    whole = "".join(f"{n}\n" for n in range(1, 100001))
    head, lost, tail = NOTE.split(text)
    assert head == whole[:500]
    assert tail == whole[-500:]
    assert int(lost) == len(whole) - 1000
    assert result.exit_code == 3
    assert result.output_bytes == len(text.encode())


@pytest.mark.parametrize("limit", [0, 1, 64, 1000])
async def test_an_output_within_the_limit_is_left_as_it_is(rig: Rig, limit: int) -> None:
    _, text = await rig.run(f"head -c {limit} /dev/zero | tr '\\0' x", policy=Policy(output_limit=limit))
    assert text == "x" * limit


async def test_an_output_limit_of_nothing_keeps_nothing(rig: Rig) -> None:
    _, text = await rig.run("seq 1 10000", policy=Policy(output_limit=0))
    assert NOTE.fullmatch(text)


async def test_a_job_that_writes_without_end_cannot_fill_the_disk(rig: Rig) -> None:
    attempt = rig.attempt("yes", policy=Policy(timeout=timedelta(seconds=60), output_limit=LIMIT))
    assert attempt.output_path is not None
    execution = await rig.executor.start(attempt)
    waiting = asyncio.create_task(execution.wait())
    largest = written = last = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while not waiting.done():
        largest = max(largest, on_disk(attempt.output_path))
        size = os.stat(attempt.output_path).st_size  # it grows, and shrinks where a hole is cut out
        written, last = written + max(0, size - last), size
        if written > 600 * 1024 * 1024:
            execution.cancel("enough", state=State.TIMED_OUT, kill_after=timedelta(seconds=5))
        await asyncio.sleep(0.01)
    result = await waiting
    assert result.state is State.TIMED_OUT
    text = rig.output(attempt)
    head, lost, tail = NOTE.split(text)
    assert (head, tail) == ("y\n" * (LIMIT // 4), "y\n" * (LIMIT // 4))
    assert int(lost) > 50 * 1024 * 1024, "the machine is too slow for this test to mean anything"
    assert largest < int(lost) / 2
    assert largest < 512 * 1024 * 1024
    assert on_disk(attempt.output_path) < LIMIT + 8192
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 20 * 1024


async def test_a_slow_writer_is_held_to_its_limit_too(rig: Rig) -> None:
    # It waits for whoever trims it, not for ever: what stands on the disk tells.
    code = """
import os, sys, time
end = time.monotonic() + 20
for n in range(60):
    print('x' * 100_000, flush=True)
    while os.fstat(1).st_blocks * 512 > 2_000_000 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.005)
"""
    attempt = rig.attempt(
        CommandAction((sys.executable, "-S", "-c", code)), policy=Policy(output_limit=LIMIT)
    )
    assert attempt.output_path is not None
    execution = await rig.executor.start(attempt)
    waiting = asyncio.create_task(execution.wait())
    largest = 0
    while not waiting.done():
        largest = max(largest, on_disk(attempt.output_path))
        await asyncio.sleep(0.01)
    assert largest < 5_000_000 < 60 * 100_001
    head, lost, tail = NOTE.split(rig.output(attempt))
    assert int(lost) == 60 * 100_001 - LIMIT
    assert len(head) + len(tail) == LIMIT


async def test_an_adopted_job_is_held_to_its_limit_and_counted(rigs: Rigs) -> None:
    first = rigs()
    code = NOISY.replace("LINES", "'y\\n' * 100_000")  # too slow to fill a disk while nobody watches it
    (first.directory / "noisy.py").write_text(code)
    command = f"echo begin; exec {sys.executable} -S {first.directory}/noisy.py"
    attempt = first.attempt(command, policy=Policy(timeout=None, output_limit=LIMIT))
    assert attempt.output_path is not None
    path = attempt.output_path
    process = (await first.executor.start(attempt)).process
    await first.until(lambda: os.path.exists(path) and os.stat(path).st_size > LIMIT)
    await first.executor.close()
    second = rigs(instance=first.instance)
    execution = second.executor.adopt(attempt, process)
    assert await second.until(
        lambda: os.stat(path).st_size > 500_000_000 or on_disk(path) < 8_000_000 < os.stat(path).st_size
    )
    assert on_disk(path) < 250_000_000
    execution.cancel("enough", state=State.CANCELLED, kill_after=timedelta(seconds=5))
    await asyncio.wait_for(execution.wait(), 60)
    head, lost, tail = NOTE.split(first.output(attempt))
    assert head.startswith("begin\ny\n")
    assert len(head) + len(tail) == LIMIT
    assert int(lost) > 1_000_000


async def test_a_child_left_behind_is_held_to_the_limit_too(rig: Rig) -> None:
    # Slow enough that the file grows after the run has ended, fast enough to pass the limit soon.
    code = NOISY.replace("LINES", "'x' * 200_000")
    (rig.directory / "noisy.py").write_text(code)
    attempt = rig.attempt(
        f"{sys.executable} -S {rig.directory}/noisy.py & exit 0", policy=Policy(output_limit=LIMIT)
    )
    assert attempt.output_path is not None
    path = attempt.output_path
    execution = await rig.executor.start(attempt)
    assert (await execution.wait()).state is State.SUCCEEDED
    execution.settle()
    assert await rig.until(
        lambda: os.stat(path).st_size > 30_000_000 or on_disk(path) < 8_000_000 < os.stat(path).st_size
    )
    await rig.until(lambda: on_disk(path) < 10_000_000)
    largest = 0
    for _ in range(100):
        largest = max(largest, on_disk(path))
        await asyncio.sleep(0.01)
    assert largest < 30_000_000
    for pid in rig.alive():
        os.kill(pid, 9)
    await rig.until(lambda: os.stat(path).st_size < LIMIT + 100)
    assert NOTE.search(rig.output(attempt))


async def test_a_silent_job_costs_no_wake_ups(rig: Rig) -> None:
    attempt = rig.attempt("echo begun; sleep 60")
    await rig.executor.start(attempt)
    await rig.until(lambda: rig.output(attempt) == "begun\n")

    def switches() -> int:
        total = 0
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text().strip() in (
                "output",
                "undertaker",
                "reaper",
                "spawner-0",
                "spawner-1",
            ):
                total += int(
                    re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)[1]
                )
        return total

    # It is still after a while, and from then on.
    deadline, before = time.monotonic() + 30, -1
    while (now := switches()) != before:
        assert time.monotonic() < deadline
        before = now
        await asyncio.sleep(1.5)


async def test_a_running_output_is_read_without_its_hole(rig: Rig) -> None:
    attempt = rig.attempt("seq 1 2000000; sleep 60", policy=Policy(output_limit=LIMIT))
    assert attempt.output_path is not None
    path = attempt.output_path
    await rig.executor.start(attempt)
    await rig.until(
        lambda: os.path.exists(path) and os.stat(path).st_size == 14_888_896 and on_disk(path) < 2_000_000
    )
    data = b"".join(output.chunks(path))
    assert len(data) < 4_000_000
    assert data.startswith(b"1\n2\n3\n")
    assert data.endswith(b"1999999\n2000000\n")
    assert b"bytes left out" in data


async def test_the_hole_is_cut_out_and_still_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    limit = 200_000
    total = 0
    with open(path, "ab", buffering=0) as file:
        descriptor = os.open(path, os.O_RDWR)
        for _ in range(5):
            for _ in range(20):
                total += file.write(b"0123456789abcde\n" * 65536 * 4)
            output.trim(descriptor, limit)
        cut_out = os.fstat(descriptor).st_size < total
        os.close(descriptor)
        total += file.write(b"the end\n")
    if not cut_out:
        pytest.skip("this file system cannot cut holes out of files")
    assert output.finish(path, limit) == os.stat(path).st_size
    head, lost, tail = NOTE.split(Path(path).read_text())
    assert int(lost) == total - limit
    assert tail.endswith("0123456789abcde\nthe end\n")
    assert len(head) + len(tail) == limit


async def test_a_full_disk_is_the_job_s_own_error(rigs: Rigs, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not possible here")
    try:
        rig = rigs()
        rig.directory = small
        result, _ = await rig.run("seq 1 1000000; echo after >/dev/null; exit 5")
        assert result.exit_code == 5
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(small)], check=False).returncode == 0:
                break
            time.sleep(0.1)


async def test_output_that_retention_removed_meanwhile_is_no_trouble(rig: Rig) -> None:
    enough = rig.directory / "enough"
    attempt = rig.attempt(f"echo hi; {waiting(enough)}; echo ho", policy=Policy(output_limit=2))
    assert attempt.output_path is not None
    execution = await rig.executor.start(attempt)
    await rig.until(lambda: os.path.exists(attempt.output_path))
    os.unlink(attempt.output_path)
    enough.touch()
    result = await asyncio.wait_for(execution.wait(), 60)
    assert (result.state, result.output_bytes) == (State.SUCCEEDED, None)

"""Python functions: in a process of their own, and inside this program."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.errors import ExecutionError
from echosched.executor import Context
from echosched.model import (
    Attempt,
    BuiltinAction,
    CallableAction,
    Job,
    Policy,
    Process,
    PythonAction,
    State,
    Trigger,
)

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any


@pytest.fixture
def module(tmp_path: Path) -> Process:
    (tmp_path / "jobs_here.py").write_text(
        """
import asyncio, os, sys

def add(a, b):
    print("adding")
    return {"sum": a + b}

async def later(x):
    await asyncio.sleep(0.01)
    return [x]

def half_a_line():
    print("no end of line", end="")
    return "return value: 7"

def strange():
    return {1, 2}.__class__

def fail():
    raise ValueError("no good\\nat all")

def leave():
    sys.exit(5)

def shout():
    print("\\udcff ä")
    sys.stdout.buffer.write(b"\\xff\\n")

def stdin():
    return sys.stdin.read()

def kill():
    os.kill(os.getpid(), 11)

class Deep:
    class Er:
        @staticmethod
        def work():
            return 42
"""
    )
    return Process(cwd=str(tmp_path))


async def test_a_function_s_return_value_is_kept(rig: Rig, module: Process) -> None:
    result, output = await rig.run(PythonAction("jobs_here:add", (1, 2)), process=module)
    assert (result.state, result.exit_code, result.value) == (State.SUCCEEDED, 0, {"sum": 3})
    assert output == 'adding\nreturn value: {"sum": 3}\n'


async def test_a_coroutine_function_is_awaited(rig: Rig, module: Process) -> None:
    result, _ = await rig.run(PythonAction("jobs_here:later", ("x",)), process=module)
    assert (result.state, result.value) == (State.SUCCEEDED, {"return": ["x"]})


async def test_a_line_left_open_hides_no_return_value(rig: Rig, module: Process) -> None:
    result, _ = await rig.run(PythonAction("jobs_here:half_a_line"), process=module)
    assert result.value == {"return": "return value: 7"}


async def test_a_directory_that_vanished_fails_no_function(rig: Rig, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    result, _ = await rig.run(PythonAction("os:rmdir", (str(gone),)), process=Process(cwd=str(gone)))
    assert result.state is State.SUCCEEDED


async def test_what_json_cannot_hold_is_kept_as_text(rig: Rig, module: Process) -> None:
    result, _ = await rig.run(PythonAction("jobs_here:strange"), process=module)
    assert result.value == {"repr": "<class 'set'>"}


async def test_an_exception_is_the_reason_and_its_traceback_the_output(rig: Rig, module: Process) -> None:
    result, output = await rig.run(PythonAction("jobs_here:fail"), process=module)
    assert (result.state, result.exit_code, result.error) == (State.FAILED, 1, "ValueError: no good at all")
    assert "jobs_here.py" in output
    assert "child.py" not in output
    assert "Traceback" in output


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("jobs_here:nothing", "AttributeError: module 'jobs_here' has no attribute 'nothing'"),
        ("jobs_here:__name__", "TypeError: 'str' object is not callable"),
    ],
)
async def test_what_cannot_be_imported_or_called_is_the_reason(
    rig: Rig, module: Process, target: str, reason: str
) -> None:
    result, _ = await rig.run(PythonAction(target), process=module)
    assert (result.state, result.error) == (State.FAILED, reason)


async def test_a_nested_name_is_found(rig: Rig, module: Process) -> None:
    result, _ = await rig.run(PythonAction("jobs_here:Deep.Er.work"), process=module)
    assert result.value == {"return": 42}


async def test_exit_codes_and_signals_of_functions_count(rig: Rig, module: Process) -> None:
    left, _ = await rig.run(PythonAction("jobs_here:leave"), process=module)
    killed, _ = await rig.run(PythonAction("jobs_here:kill"), process=module)
    assert (left.exit_code, left.error) == (5, "exit code 5")
    assert (killed.signal, killed.error) == (11, "killed by signal 11 (SIGSEGV)")


async def test_output_that_is_not_utf_8_fails_nothing(rig: Rig, module: Process) -> None:
    result, output = await rig.run(PythonAction("jobs_here:shout"), process=module)
    assert result.state is State.SUCCEEDED
    assert "\\udcff ä" in output


async def test_a_function_reads_nothing_from_stdin(rig: Rig, module: Process) -> None:
    result, _ = await rig.run(PythonAction("jobs_here:stdin", ()), process=module)
    assert result.value == {"return": ""}


async def test_a_function_s_process_does_not_see_this_room_s_modules(rig: Rig) -> None:
    result, _ = await rig.run(PythonAction("importlib.util:find_spec", ("commandline",)))
    assert (result.state, result.value) == (State.SUCCEEDED, None)


async def test_arguments_are_not_shown_in_the_process_list(rigs: Rigs) -> None:
    rig = rigs(resolve=lambda text: text.replace("${env:KEY}", "t0psecret"))
    action = PythonAction("time:sleep", (60,))
    execution = await rig.executor.start(rig.attempt(action))
    # Empty for an instant: exec lets the starter go before it has set up the new arguments.
    line = await rig.until(Path(f"/proc/{execution.process.pid}/cmdline").read_bytes)
    assert b"time:sleep" in line
    assert b"60" not in line
    result, output = await rig.run(PythonAction("builtins:len", ("${env:KEY}",)))
    assert (result.value, output) == ({"return": 9}, "return value: 9\n")


async def test_a_function_with_limits_runs_within_them(rig: Rig) -> None:
    process = Process(limits=(("nofile", 55),))
    result, _ = await rig.run(PythonAction("resource:getrlimit", (7,)), process=process)
    assert result.value == {"return": [55, 55]}


async def test_a_function_is_ended_like_a_command(rig: Rig) -> None:
    result, _ = await rig.run(
        PythonAction("time:sleep", (60,)), policy=Policy(timeout=timedelta(seconds=0.5))
    )
    assert (result.state, result.signal) == (State.TIMED_OUT, 15)


# ── inside this program ───────────────────────────────────────────────────────────────────────


async def test_a_plain_callable_runs_in_a_thread_of_its_own(rig: Rig) -> None:
    result, _ = await rig.run(CallableAction(lambda: {"thread": threading.current_thread().name}))
    assert (result.state, result.value) == (State.SUCCEEDED, {"thread": "callable"})


async def test_a_coroutine_function_runs_in_the_loop(rig: Rig) -> None:
    async def poll() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    result, _ = await rig.run(CallableAction(poll))
    assert result.value == {"return": "MainThread"}


async def test_the_context_knows_the_attempt_and_logs_to_its_output(rig: Rig) -> None:
    slot = datetime(2026, 5, 6, tzinfo=UTC)
    seen = {}

    def work(context: Context) -> None:
        seen.update(job=context.job, run=context.run, slot=context.slot, cancelled=context.cancelled)
        context.log("line ä")
        context.log(2)

    path = str(rig.directory / "7.1.log")
    attempt = Attempt(7, Job("name", CallableAction(work)), slot, 1, Trigger.SCHEDULE, path)
    execution = await rig.executor.start(attempt)
    result = await execution.wait()
    assert seen == {"job": "name", "run": 7, "slot": slot, "cancelled": False}
    assert (rig.output(attempt), result.output_bytes) == ("line ä\n2\n", 10)


async def test_a_reason_in_words_is_the_error_as_it_stands(rig: Rig) -> None:
    def work(context: Context) -> None:
        context.log("half done")
        raise ExecutionError("retention: the store cannot be written")

    result, output = await rig.run(CallableAction(work))
    assert (result.state, result.error) == (State.FAILED, "retention: the store cannot be written")
    assert output == "half done\n"


@pytest.mark.parametrize("path", [True, False])
async def test_an_exception_fails_the_run_with_its_traceback(rig: Rig, path: bool) -> None:
    def work() -> None:
        raise KeyError("lost")

    async def work_async() -> None:
        raise KeyError("lost")

    for function in (work, work_async):
        result, output = await rig.run(CallableAction(function), output=path)
        assert (result.state, result.error) == (State.FAILED, "KeyError: 'lost'")
        if path:
            assert output.startswith("Traceback")
            assert "raise KeyError" in output
            assert "function.py" not in output.replace("test_executor_function.py", "")


@pytest.mark.parametrize("failure", [SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()])
async def test_no_exception_of_a_job_leaks(rig: Rig, failure: BaseException) -> None:
    def work() -> None:
        raise failure

    async def work_async() -> None:
        raise failure

    functions: list[Callable[..., Any]] = [work]
    if not isinstance(failure, StopIteration):
        functions.append(work_async)
    for function in functions:
        result, _ = await rig.run(CallableAction(function))
        assert result.state is State.FAILED
        assert result.error is not None
        assert result.error.startswith(type(failure).__name__)


async def test_a_coroutine_is_cancelled_on_time_out(rig: Rig) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    result, _ = await rig.run(CallableAction(work), policy=Policy(timeout=timedelta(seconds=0.1)))
    assert (result.state, result.error, ended) == (State.TIMED_OUT, "timed out after 0.1 s", [True])


async def test_a_thread_that_looks_at_cancelled_ends_in_order(rig: Rig) -> None:
    def work(context: Context) -> str:
        while not context.wait_cancelled(5):
            pass
        context.log("tidied up")
        return "late"

    result, output = await rig.run(CallableAction(work), policy=Policy(timeout=timedelta(seconds=0.1)))
    assert (result.state, result.error, output) == (State.TIMED_OUT, "timed out after 0.1 s", "tidied up\n")


async def test_a_deaf_thread_is_left_behind_and_the_result_says_so(rig: Rig) -> None:
    release = threading.Event()
    policy = Policy(timeout=timedelta(seconds=0.1), kill_after=timedelta(seconds=0.1))
    result, _ = await rig.run(CallableAction(release.wait), policy=policy)
    release.set()
    assert result.state is State.TIMED_OUT
    assert result.error == "timed out after 0.1 s; it did not stop when asked and may still be at work"


async def test_output_of_callables_is_held_to_its_limit(rig: Rig) -> None:
    def work(context: Context) -> None:
        for _ in range(1000):
            context.log("x" * 999)

    result, output = await rig.run(CallableAction(work), policy=Policy(output_limit=10_000))
    assert "bytes left out" in output
    assert result.output_bytes is not None
    assert result.output_bytes < 10_100


def fill_the_disk_of(context: Context) -> None:
    """Make every further write to the output fail, as it does on a full disk."""
    full = os.open("/dev/full", os.O_WRONLY)
    assert context._descriptor is not None
    os.dup2(full, context._descriptor, inheritable=False)
    os.close(full)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_disk_that_fills_up_makes_no_failure_of_a_call_that_was_made(rig: Rig) -> None:
    def work(context: Context) -> str:
        context.log("x" * 20)
        fill_the_disk_of(context)
        return "done"

    await rig.run(CallableAction(work))
    before = open_descriptors()
    result, _ = await rig.run(CallableAction(work), policy=Policy(output_limit=10))
    assert (result.state, result.value, result.output_bytes) == (State.SUCCEEDED, {"return": "done"}, 10)
    assert open_descriptors() == before


async def test_a_full_disk_does_not_hide_why_a_call_failed(rig: Rig) -> None:
    def work(context: Context) -> None:
        context.log("half done")
        fill_the_disk_of(context)
        raise KeyError("lost")

    before = open_descriptors()
    result, _ = await rig.run(CallableAction(work))
    assert (result.state, result.error, result.output_bytes) == (State.FAILED, "KeyError: 'lost'", 10)
    assert open_descriptors() == before


async def test_a_call_that_is_cancelled_before_its_first_step_leaves_no_descriptor(rig: Rig) -> None:
    async def work() -> None:
        await asyncio.sleep(60)

    before = open_descriptors()
    for _ in range(5):
        execution = await rig.executor.start(rig.attempt(CallableAction(work)))
        execution.cancel("enough", state=State.CANCELLED, kill_after=timedelta(0))
        assert (await execution.wait()).error == "enough"
    assert open_descriptors() == before


async def test_many_callables_run_at_once(rig: Rig) -> None:
    begun = time.monotonic()
    results = await asyncio.gather(*(rig.run(CallableAction(lambda: time.sleep(0.3))) for _ in range(40)))
    assert {result.state for result, _ in results} == {State.SUCCEEDED}
    assert time.monotonic() - begun < 11  # one after another: 12


async def test_built_in_jobs_get_a_context(rigs: Rigs) -> None:
    async def builtin(context: Context) -> dict[str, Any]:
        context.log("brief")
        return {"name": context.attempt.job.action.name}

    result, output = await rigs(builtin=builtin).run(BuiltinAction("brief"))
    assert (result.value, output) == ({"name": "brief"}, "brief\n")
    with pytest.raises(ExecutionError, match="no built-in jobs"):
        await rigs().run(BuiltinAction("brief"))


async def test_importing_the_room_is_cheap(rig: Rig) -> None:
    code = (
        "import sys, echosched.executor; print(sorted({'asyncio', 'aiohttp', 'ctypes'} & set(sys.modules)))"
    )
    root = str(Path(__file__).parents[3])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    output, _ = await process.communicate()
    assert output == b"[]\n"

"""Python functions: as a process of their own (``python`` jobs), or inside this program (the library)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from echosched.errors import ExecutionError
from echosched.executor import child, output
from echosched.executor.task import TaskExecution, in_thread
from echosched.model import Attempt, CallableAction, PythonAction, Result, State
from echosched.protocols import Clock

_TAIL = 64 * 1024
_VALUE_LIMIT = 16 * 1024  # of a return value that is kept with the run; the output has the whole
_CHILD = os.path.abspath(child.__file__)


def python_argv(action: PythonAction) -> list[str]:
    """Return the command that calls *action*'s function in a process of its own."""
    # -P: the directory of child.py must not stand in the job's import path.
    return [sys.executable, "-P", _CHILD, "call", action.target]


def uses_child(attempt: Attempt) -> bool:
    """Tell whether the output of *attempt* may end with a line for us."""
    job = attempt.job
    return isinstance(job.action, PythonAction) or bool(job.process.limits)


def read_answer(result: Result, path: str) -> Result:
    """Return *result* with what the child's last lines say: a return value, or a reason."""
    for raw in reversed(_tail(path).splitlines()):
        line = raw.decode("utf-8", "replace")
        if result.state is State.FAILED and line.startswith(child.REASON):
            reason = line.removeprefix(child.REASON)
            return Result(result.state, result.exit_code, result.signal, reason, result.output_bytes)
        # The function may have printed something before it without ending the line.
        at = line.find(child.VALUE)
        if result.state is State.SUCCEEDED and at >= 0:
            text = line[at + len(child.VALUE) :]
            value = as_mapping(_parse(text)) if len(text) <= _VALUE_LIMIT else None
            return Result(result.state, result.exit_code, None, None, result.output_bytes, value)
    return result


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """Return a return value as a result keeps it: a mapping as it is, others under ``return``."""
    if value is None or isinstance(value, dict):
        return value
    return {"return": value}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _tail(path: str) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read(_TAIL)
    except OSError:
        return b""


class Context:
    """What a callable may want to know of its attempt, and the way to its output.

    Given to a callable whose first parameter has no default, or that has one named ``context``. Safe to
    use from any thread.
    """

    def __init__(self, attempt: Attempt, descriptor: int | None) -> None:
        self.attempt = attempt
        self._descriptor = descriptor
        self._room = attempt.job.policy.output_limit
        self._lost = 0
        self._written = 0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    @property
    def job(self) -> str:
        """Return the job's name."""
        return self.attempt.job.name

    @property
    def run(self) -> int:
        """Return the run's number."""
        return self.attempt.run

    @property
    def slot(self) -> datetime | None:
        """Return the slot, aware UTC; ``None`` for a manual run."""
        return self.attempt.slot

    @property
    def cancelled(self) -> bool:
        """Tell whether the attempt has been asked to end (time-out, cancel, stop of the scheduler)."""
        return self._cancelled.is_set()

    def wait_cancelled(self, seconds: float) -> bool:
        """Sleep for *seconds*, or until the attempt is asked to end; tell whether it was."""
        return self._cancelled.wait(seconds)

    def log(self, message: object) -> None:
        """Write one line to the attempt's output; past the output's limit it is only counted."""
        self.write(f"{message}\n")

    def write(self, text: str) -> None:
        """Write *text* to the attempt's output as it is."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._descriptor is None:
                return
            kept = data[: self._room]
            self._room -= len(kept)
            self._lost += len(data) - len(kept)
            while kept:
                count = os.write(self._descriptor, kept)
                self._written += count
                kept = kept[count:]

    def ask_to_end(self) -> None:
        """Set :attr:`cancelled`."""
        self._cancelled.set()

    def close(self) -> int | None:
        """Close the output; return its size. Once; later calls return ``None``."""
        with self._lock:
            if self._descriptor is None:
                return None
            descriptor, self._descriptor = self._descriptor, None
            # The function has done what it did: a full disk makes no failure of it now.
            with contextlib.suppress(OSError):
                try:
                    if self._lost:
                        self._written += os.write(descriptor, output.note(self._lost))
                finally:
                    os.close(descriptor)
            return self._written


class CallableExecutor:
    """Calls :class:`~echosched.model.CallableAction` functions in this program.

    A coroutine function is awaited in the loop, any other one runs in a thread of its own. A thread
    cannot be ended from outside: one that does not look at ``context.cancelled`` is left behind when
    ``kill_after`` has passed, and the result says so.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    async def start(self, attempt: Attempt) -> TaskExecution:
        """Begin *attempt*; raises ``ExecutionError`` where there is nothing to call."""
        action = attempt.job.action
        if not isinstance(action, CallableAction):
            raise ExecutionError(f"{type(action).__name__} is not a callable")
        return await self.begin(attempt, action.function)

    async def begin(
        self, attempt: Attempt, function: Callable[..., Any], *, give_context: bool | None = None
    ) -> TaskExecution:
        """Call *function* for *attempt*; *give_context* ``None`` lets its signature decide."""
        wanted = _wants_context(function) if give_context is None else give_context
        awaited = _is_async(function)
        context = Context(
            attempt, None if attempt.output_path is None else output.create(attempt.output_path)
        )
        arguments = (context,) if wanted else ()
        return TaskExecution(
            attempt,
            _carry_out(function, arguments, context, awaited=awaited),
            self._clock.now(),
            cancellable=awaited,
            on_cancel=context.ask_to_end,
            # Not only by the work: one that is cancelled before its first step never begins.
            on_end=context.close,
        )

    async def close(self) -> None:
        """Nothing is held."""


async def _carry_out(
    function: Callable[..., Any], arguments: tuple[Any, ...], context: Context, *, awaited: bool
) -> Result:
    value: Any = None
    failure: BaseException | None = None
    try:
        if awaited:
            value = await function(*arguments)
        else:
            value, failure = await in_thread("callable", function, *arguments)
            if inspect.isawaitable(value):
                value = await value
    except asyncio.CancelledError:
        raise
    except BaseException as err:  # noqa: BLE001  (the boundary around an attempt: SystemExit included)
        failure = err
    if failure is None:
        return Result(State.SUCCEEDED, output_bytes=context.close(), value=_small(value))
    if isinstance(failure, ExecutionError):  # a reason in words, for people; where it arose helps nobody
        return Result(State.FAILED, error=str(failure), output_bytes=context.close())
    # On a full disk the reason in the result has to do: why the function failed must not be hidden by it.
    with contextlib.suppress(OSError):
        context.write("".join(traceback.format_exception(type(failure), failure, _own_frames_off(failure))))
    reason = traceback.format_exception_only(type(failure), failure)[-1].strip()
    return Result(State.FAILED, error=reason, output_bytes=context.close())


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
    )


def _wants_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    return first.default is first.empty or first.name == "context"


def _own_frames_off(err: BaseException) -> Any:
    trace = err.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _small(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return {"repr": repr(value)[:_VALUE_LIMIT]}
    if len(text) > _VALUE_LIMIT:
        return {"repr": text[:_VALUE_LIMIT]}
    return as_mapping(value)

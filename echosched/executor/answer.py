"""What a process of our own leaves behind: how the attempt ended, in a file beside its output.

An exit code cannot say why a call failed, and where supervisor and worker die together it may be lost. The
answer is written whole (a rename) as the last thing that the process does, and removed when the result
is committed: whoever comes after a crash, however late, reads the same outcome.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from echosched.executor.spawn import OUTPUT_MODE
from echosched.model import Attempt, BuiltinAction, CommandAction, HttpAction, Result, State

SUFFIX = ".answer"
EX_FAILED = 1
EX_BARRED = 3
"""The exit code of a process that found its output file there already: it did nothing at all."""

_LARGEST = 256 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def is_given(attempt: Attempt) -> bool:
    """Tell whether the process of *attempt* is one of ours, which leaves an answer.

    Of a job that is no longer defined nobody knows what it did: there may be one.
    """
    action = attempt.job.action
    if isinstance(action, CommandAction):
        return action.command == ()
    return isinstance(action, HttpAction | BuiltinAction)


def path_of(output_path: str) -> str:
    """Return where the answer of an attempt with that output file lies."""
    return output_path + SUFFIX


def write(output_path: str, result: Result) -> None:
    """Leave *result* for whoever asks; raises ``OSError``."""
    document: dict[str, Any] = {"state": str(result.state), "error": result.error}
    if result.value is not None:
        document["value"] = dict(result.value)
    part = f"{path_of(output_path)}.part"
    descriptor = os.open(part, _FLAGS, OUTPUT_MODE)
    with open(descriptor, "wb") as file:
        file.write(json.dumps(document).encode("ascii"))
    os.replace(part, path_of(output_path))


def read(output_path: str | None) -> Result | None:
    """Return the answer of an attempt, ``None`` where there is none (yet)."""
    if output_path is None:
        return None
    try:
        descriptor = os.open(path_of(output_path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            document = json.loads(file.read(_LARGEST))
        return Result(State(document["state"]), error=document["error"], value=document.get("value"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def judge(attempt: Attempt, result: Result) -> Result:
    """Return what became of *attempt*, whose process ended as *result* says: its own word counts."""
    if result.state in (State.TIMED_OUT, State.CANCELLED):
        return result  # it was made to end
    answer = read(attempt.output_path)
    if answer is not None:
        return answer
    if isinstance(attempt.job.action, CommandAction):
        return result
    if result.signal is not None or (result.state is State.SUCCEEDED and result.exit_code == 0):
        return Result(result.state, None, result.signal, result.error)
    why = "its process ended without an answer"
    if result.state is State.FAILED and result.exit_code == EX_FAILED:
        why = "it failed, but the reason could not be written"
    return Result(State.FAILED, error=why)


def discard(attempt: Attempt) -> None:
    """Remove what nobody needs any more, now that the result is committed."""
    if attempt.output_path is None:
        return
    kept = attempt.job.policy.output
    for path in (path_of(attempt.output_path), *(() if kept else (attempt.output_path,))):
        with contextlib.suppress(OSError):
            os.unlink(path)

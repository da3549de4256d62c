"""What an exit means: the exit code against the job's, what the output file adds, an answer that says more."""

from __future__ import annotations

import logging

from echosched.executor import answer, function, output
from echosched.executor.commandline import needs_shell
from echosched.model import Attempt, CommandAction, PythonAction, Result, State

log = logging.getLogger(__name__)


def judge(attempt: Attempt, exit_code: int) -> Result:
    """Return what *exit_code* means for *attempt*."""
    action = attempt.job.action
    wanted = action.success_codes if isinstance(action, CommandAction | PythonAction) else (0,)
    if exit_code in wanted:
        return Result(State.SUCCEEDED, exit_code)
    meaning = ""
    if exit_code in (126, 127) and isinstance(action, CommandAction) and needs_shell(action):
        meaning = " (command not found)" if exit_code == 127 else " (command not executable)"
    return Result(State.FAILED, exit_code, None, f"exit code {exit_code}{meaning}")


def at_once(attempt: Attempt, result: Result) -> Result | None:
    """Return *result* with the size of the output; ``None`` where the file must be dealt with: :func:`in_full`."""
    size = output.size_of(attempt.output_path)
    is_long = size is not None and (size > attempt.job.policy.output_limit or function.uses_child(attempt))
    if is_long or answer.is_given(attempt):
        return None
    return with_size(result, size)


def in_full(attempt: Attempt, result: Result) -> Result:
    """Cut the output to its limit and return *result* with all that the files add. Blocks (the disk)."""
    path = attempt.output_path
    try:
        if path is not None:
            result = with_size(result, output.finish(path, attempt.job.policy.output_limit))
            if answer.is_given(attempt):
                size = result.output_bytes if attempt.job.policy.output else None
                result = with_size(answer.judge(attempt, result), size)
            elif function.uses_child(attempt):
                result = function.read_answer(result, path)
    except OSError:
        log.exception("run %s: its output could not be finished", attempt.tag)
    return result


def with_size(result: Result, size: int | None) -> Result:
    """Return *result* with the size of its output."""
    return Result(result.state, result.exit_code, result.signal, result.error, size, result.value)

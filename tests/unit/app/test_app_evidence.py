"""What a recovery may begin anew, and how often."""

from __future__ import annotations

from pathlib import Path

from echosched.app.evidence import MOST_AGAIN, gather
from echosched.app.outputs import Outputs
from echosched.clock import SystemClock
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.model import Action, Attempt, BuiltinAction, CommandAction, Job, Trigger
from echosched.testing import MemoryStore


def attempt_of(action: Action) -> Attempt:
    return Attempt(7, Job("job", action), None, 1, Trigger.MANUAL, None)


async def test_a_builtin_job_begins_anew_a_few_times_and_nothing_else_does(tmp_path: Path) -> None:
    store, outputs = MemoryStore(), Outputs(str(tmp_path))
    executor = ActionExecutor(ExecutorOptions(clock=SystemClock(), instance="nobody"))
    path = Path(outputs.prepare(7, 1))
    answers = []
    for _ in range(MOST_AGAIN + 1):
        path.write_text("half")
        evidence = await gather(store, executor, outputs)
        assert not await evidence.again(attempt_of(CommandAction("true")))
        assert path.exists()
        answers.append(await evidence.again(attempt_of(BuiltinAction("retention"))))
    assert answers == [True] * MOST_AGAIN + [False]
    assert path.read_text() == "half"
    await executor.close()

"""Another worker: starts commands with an executor and stays, until it is killed.

``starter.py INSTANCE DIRECTORY COMMAND…`` starts each command as run 1, 2 … and prints ``TAG PID TICKS`` lines,
then ``ready``.
"""

import asyncio
import sys

from echosched.clock import SystemClock
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.model import Attempt, CommandAction, Job, Policy, Trigger


async def main(instance: str, directory: str, commands: list[str]) -> None:
    options = ExecutorOptions(
        clock=SystemClock(),
        instance=instance,
        report_child=lambda tag, pid, ticks: print(tag, pid, ticks, flush=True),
    )
    executor = ActionExecutor(options)
    job = Policy(timeout=None)
    for number, command in enumerate(commands, 1):
        attempt = Attempt(
            number, Job("job", CommandAction(command), policy=job), None, 1, Trigger.MANUAL,
            f"{directory}/{number}.1.log",
        )  # fmt: skip
        await executor.start(attempt)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))

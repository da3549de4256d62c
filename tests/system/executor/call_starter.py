"""Another worker: begins HTTP calls with an executor and stays, until it is killed.

``call_starter.py INSTANCE DIRECTORY URL…`` begins a call of each as run 1, 2 …, prints ``TAG PID TICKS`` lines, then
``ready``.
"""

import asyncio
import sys

from echosched.clock import SystemClock
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.model import Attempt, HttpAction, Job, Policy, Trigger


async def main(instance: str, directory: str, urls: list[str]) -> None:
    def path(run: int, attempt: int) -> str:
        return f"{directory}/{run}.{attempt}.log"

    executor = ActionExecutor(
        ExecutorOptions(
            clock=SystemClock(),
            instance=instance,
            report_child=lambda tag, pid, ticks: print(tag, pid, ticks, flush=True),
            trace_path=path,
        )
    )
    for number, url in enumerate(urls, 1):
        job = Job("job", HttpAction(url), policy=Policy(timeout=None))
        await executor.start(Attempt(number, job, None, 1, Trigger.MANUAL, path(number, 1)))
    print("ready", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))

"""A program that is its own scheduler: jobs by decorator, remembered in a file.

    python examples/quickstart.py [DIRECTORY]

Ctrl-C (or SIGTERM) ends it: it waits for running jobs, and a second one ends those too. Kill it with
SIGKILL and start it again: what was under way is recorded as abandoned, nothing runs twice.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from echosched import Context, Scheduler
from echosched.events import RunEnd

directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
scheduler = Scheduler(store=directory / "jobs.db", timezone="Europe/Berlin")


@scheduler.job("0 8 * * Mon-Fri", retries=3, retry_delay="1m")
def brief() -> None:
    """Say good morning, and again a minute later if that fails."""
    print("good morning")


@scheduler.job("every 1s", timeout="30s", overlap="skip")
async def poll(run: Context) -> dict[str, int]:
    """Coroutine functions run in the scheduler's own loop; the others in a thread each."""
    await asyncio.sleep(0.01)
    run.log(f"slot {run.slot}")  # into the run's output
    return {"rows": 3}


@scheduler.job(after="poll")
def digest() -> None:
    """Follows each poll that succeeded."""


@scheduler.on(RunEnd)
def tell(event: RunEnd) -> None:
    print(f"{event.job} run {event.run}: {event.state}", flush=True)


if __name__ == "__main__":
    scheduler.run()

"""A scheduler beside a program of the ordinary, blocking kind; with commands and an HTTP call as jobs.

python examples/background_thread.py
"""

from __future__ import annotations

import time

from echosched import Context, Scheduler, State
from echosched.events import RunEnd, RunRetry

scheduler = Scheduler()

# A command line (a list would go without a shell); its whole process tree ends with its time-out.
scheduler.add("disk", "every 1s", command="df -P / | tail -1", timeout="10s")

# Nobody listens there: it fails, is tried once more, and the callback below hears of it.
scheduler.add("ping", http="http://127.0.0.1:9/", retries=1, retry_delay="100ms", timeout="5s")


@scheduler.job(timeout=None)
def crunch(run: Context) -> None:
    """A long one, that looks whether it is still wanted."""
    for step in range(1000):
        if run.cancelled:
            return
        run.log(f"step {step}")
        time.sleep(0.01)


@scheduler.on(RunRetry, RunEnd)
def tell(event: RunRetry | RunEnd) -> None:
    if event.error is not None:
        print(f"{event.job}: {event.event}: {event.error}", flush=True)


def main() -> None:
    with scheduler.background() as running:
        long = running.trigger("crunch")
        ping = running.wait(running.trigger("ping"), timeout=30)
        print(f"ping: {ping.state} after {ping.attempt} attempts")
        while not (disk := running.history("disk", states=[State.SUCCEEDED])):
            time.sleep(0.1)  # the program's own work
        print("disk:", running.output(disk[0].run).strip())
        running.cancel(long)
        print(f"crunch: {running.wait(long).state}, {len(running.output(long).splitlines())} steps")


if __name__ == "__main__":
    main()

"""DaemonContext and PIDFile on their own, for a daemon that schedules nothing: it counts seconds.

    python examples/plain_daemon.py DIRECTORY    # returns when the daemon is ready, or says why it is not
    kill $(cat DIRECTORY/counter.pid)

Start it twice: the second one says that there is one. Kill it with SIGKILL: the pidfile that stays behind
means nothing, since the lock went with the process.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from lockfile import AlreadyLocked

from echosched import DaemonContext, PIDFile


def main(directory: Path) -> None:
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)

    pidfile = PIDFile(directory / "counter.pid")
    context = DaemonContext(
        pidfile=pidfile,
        out=directory / "counter.out",  # stdout and stderr: nothing it says is lost
        signal_map={signal.SIGTERM: stop},
        wait_ready=True,
    )
    try:
        context.open()  # only the daemon returns from here
    except AlreadyLocked as error:
        sys.exit(f"counter: {error}")
    with context:
        count = 0
        context.ready()  # the starting process leaves now, with exit code 0
        while not stopped:
            count += 1
            print(count, flush=True)
            time.sleep(0.1)
        print(f"stopped by {signal.Signals(stopped[0]).name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

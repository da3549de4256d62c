"""A worker without a scheduler, for the daemon's tests: beats, obeys, and misbehaves when asked.

Run as ``python daemon_worker.py JOURNAL MODE``; what happens is written to JOURNAL, a line each.
MODE: ``serve`` · ``exit:N`` · ``raise`` · ``segv`` · ``fail:N:MESSAGE`` · ``crash`` (ready, then exit 9) ·
``child:SECONDS:CODE`` (serve, with a child process of that life at most and that end) · ``hang``: never ready ·
``orphan``: leaves one behind · ``dieongo``: as a standby, dies when it is to take over ·
``chatter``: writes numbered lines to the journal, quickly.
A file beside JOURNAL named ``mode`` replaces MODE for later workers; one named ``enough`` ends the child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import subprocess
import sys
import time

from echosched.daemon.beat import Beat
from echosched.daemon.link import WorkerLink
from echosched.daemon.proc import start_ticks


def main() -> int:
    journal, mode = sys.argv[1:3]
    override = os.path.join(os.path.dirname(journal), "mode")
    if os.path.exists(override):
        with open(override) as file:
            mode = file.read().strip()
    faulthandler.enable()

    def note(*words: object) -> None:
        with contextlib.suppress(OSError), open(journal, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    link = WorkerLink.from_environment()
    assert link is not None, "not started by a supervisor"
    note(
        "start",
        os.getpid(),
        "standby" if link.standby else "worker",
        *(repr(child) for child in link.children),
    )
    note("environment", *sorted(os.environ))
    print("worker says hello", file=sys.stderr, flush=True)
    kind, *parameters = mode.split(":", 2)
    if kind == "exit":
        return int(parameters[0])
    if kind == "raise":
        raise RuntimeError("the worker is broken")
    if kind == "segv":
        os.kill(os.getpid(), 11)
    if kind == "fail":
        link.failed(int(parameters[0]), parameters[1])
        return int(parameters[0])
    if kind == "hang":
        time.sleep(60)
    beat = Beat(link.beat_path)
    if not link.standby:
        beat.beat()
    link.ready("warm")
    if kind == "crash":
        time.sleep(0.05)
        return 9
    if kind == "child" and not link.children:
        enough = os.path.join(os.path.dirname(journal), "enough")
        script = (
            f"import os, time; end = time.monotonic() + {parameters[0]}\n"
            f"while time.monotonic() < end and not os.path.exists({enough!r}): time.sleep(0.02)\n"
            f"os._exit({parameters[1]})"
        )
        environment = {**os.environ, "MARK": f"{os.path.dirname(journal)}:7.1"}
        child = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, env=environment)
        ticks = start_ticks(child.pid)
        assert ticks is not None
        link.report_child("7.1", child.pid, ticks)
        note("child", child.pid, ticks)
    if kind == "orphan" and os.fork() == 0:
        # A grandchild that lost its parent: comes to the supervisor, ends a little later.
        pid = os.fork()
        if pid:
            os._exit(0)
        note("orphan", os.getpid())
        time.sleep(0.3)
        os._exit(0)
    journal_path = os.path.join(os.path.dirname(journal), "e.log")
    chat = open(journal_path, "a") if kind == "chatter" else None
    count = 0
    while True:
        select.select([link], [], [], 0.002 if chat else beat.interval_seconds)
        if chat:
            for _ in range(3):
                chat.write(f"line {count} {'x' * 80}\n")
                chat.flush()
                count += 1
        if not link.standby:
            beat.beat()
        for message in link.receive():
            note(
                message.op,
                message.signal,
                message.immediate,
                message.grace,
                message.child,
                *map(repr, message.children),
            )
            if message.op == "go" and kind == "dieongo":
                return 5
            if message.op == "go":
                beat.beat()
                link.ready("took over")
            if message.op == "reload":
                link.reloading()
                link.reloaded({"grace": 2.5})
                note("reloaded")
            elif message.op == "reopen":
                link.reopen_output()
                if chat:
                    chat.close()
                    chat = open(journal_path, "a")
            elif message.op == "retire":
                os._exit(0)
            elif message.op in ("stop", "eof"):
                if chat:
                    note("chattered", count)
                note("leaving")
                return 0


if __name__ == "__main__":
    sys.exit(main())

"""The worker goes before its jobs, and hands nothing of it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, sys, threading
from echosched.daemon import precedence

def nice(of=0):
    return os.getpriority(os.PRIO_PROCESS, of)

def session(pid):
    with open(f"/proc/{pid}/autogroup") as file:
        return file.read().split()[-1]

def child(**options):
    read, write = os.pipe()
    program = "import os; print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/autogroup').read().split()[-1])"
    action = [(os.POSIX_SPAWN_DUP2, write, 1)]
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ, file_actions=action, **options)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as file:
        return file.read().split()

precedence.go_first()
seen = {"loop": nice(), "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK}
def beside():
    seen["thread"] = nice()
    seen["job of a thread"] = child(setsid=True)
thread = threading.Thread(target=beside)
thread.start()
thread.join()
seen["job"] = child(setsid=True)
seen["session"] = session(os.getpid())
print(json.dumps(seen))
"""

is_grouped = Path("/proc/self/autogroup").exists()


def run(*before: str, new_session: bool = True) -> dict[str, Any]:
    words = [*before, sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=new_session)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go before others")
@pytest.mark.skipif(not is_grouped, reason="this kernel does not group processes by session")
def test_the_loop_and_its_session_go_first_but_no_thread_and_no_job_does() -> None:
    seen = run()
    assert seen["loop"] == -15
    assert seen["session"] == "-15"
    assert seen["policy"] == os.SCHED_OTHER
    assert seen["thread"] == 0
    assert seen["job"] == seen["job of a thread"] == ["0", "0"]


@pytest.mark.skipif(not is_grouped, reason="this kernel does not group processes by session")
def test_a_daemon_with_a_niceness_of_its_own_keeps_it() -> None:
    seen = run("nice", "-n", "3")
    assert seen["loop"] == seen["thread"] == 3
    assert seen["session"] == "0"
    assert seen["job"] == seen["job of a thread"] == ["3", "0"]


@pytest.mark.skipif(not is_grouped, reason="this kernel does not group processes by session")
def test_a_session_that_is_not_its_own_keeps_its_weight() -> None:
    before = Path("/proc/self/autogroup").read_text().split()[-1]
    assert run(new_session=False)["session"] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lay down a capability")
@pytest.mark.skipif(not is_grouped, reason="this kernel does not group processes by session")
def test_who_may_not_go_first_is_as_nice_as_ever() -> None:
    seen = run("setpriv", "--inh-caps=-sys_nice", "--bounding-set=-sys_nice")
    assert (seen["loop"], seen["session"]) == (0, "0")
    assert seen["job"] == seen["job of a thread"] == ["0", "0"]

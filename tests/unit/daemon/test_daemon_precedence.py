"""The worker goes before its jobs, and hands nothing of it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = """
import json, os, sys, threading
from echosched.daemon import precedence

LOOK = '''
import os
try:
    with open("/proc/self/autogroup") as file:
        words = file.read().split()
except OSError:  # a kernel that does not group processes by session
    words = []
seen = [os.getpriority(os.PRIO_PROCESS, 0), words[-1] if words else "0"]
'''

def child():
    read, write = os.pipe()
    action = [(os.POSIX_SPAWN_DUP2, write, 1)]
    words = [sys.executable, "-c", LOOK + "print(*seen)"]
    pid = os.posix_spawn(sys.executable, words, os.environ, file_actions=action, setsid=True)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as file:
        return file.read().split()

precedence.go_first()
precedence.weigh_session(heavily=True)
exec(LOOK)
told = {"loop": seen[0], "session": seen[1], "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK}
def beside():
    told["thread"] = os.getpriority(os.PRIO_PROCESS, 0)
    told["job of a thread"] = child()
thread = threading.Thread(target=beside)
thread.start()
thread.join()
told["job"] = child()
precedence.weigh_session(heavily=False)
exec(LOOK)
told["afterwards"] = seen[1]
print(json.dumps(told))
"""


def run(*before: str, nice: int = 0, new_session: bool = True) -> dict[str, Any]:
    # A niceness of the tests' own is taken back: what the program may do depends on it.
    own = ["nice", "-n", str(nice - os.getpriority(os.PRIO_PROCESS, 0))]
    words = [*own, *before, sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=new_session)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def weighed() -> bool:
    """Tell whether the kernel groups processes by session, and tells a new session's weight.

    It tells nothing of a process that has no session but the very first one, where a container's processes may be.
    """
    look = "print(open('/proc/self/autogroup').read())"
    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, check=False, start_new_session=True
    )
    return done.returncode == 0 and bool(done.stdout.strip())


def may_go_first() -> bool:
    """Tell whether this account may have a negative niceness (root mostly may, in a container too)."""
    attempt = "import os; os.setpriority(os.PRIO_PROCESS, 0, -1)"
    return subprocess.run([sys.executable, "-c", attempt], capture_output=True, check=False).returncode == 0


def test_the_loop_and_its_session_go_first_where_they_may_but_no_thread_and_no_job_does() -> None:
    seen = run()
    assert seen["loop"] == (-15 if may_go_first() else 0)
    assert seen["session"] == ("-15" if may_go_first() and weighed() else "0")
    assert seen["afterwards"] == "0"
    assert seen["policy"] == os.SCHED_OTHER
    assert seen["thread"] == 0
    assert seen["job"] == seen["job of a thread"] == ["0", "0"]


def test_a_daemon_with_a_niceness_of_its_own_keeps_it() -> None:
    seen = run(nice=3)
    assert seen["loop"] == seen["thread"] == 3
    assert seen["session"] == "0"
    assert seen["job"] == seen["job of a thread"] == ["3", "0"]


def test_a_session_that_is_not_its_own_keeps_its_weight() -> None:
    words = Path("/proc/self/autogroup").read_text().split() if weighed() else []
    assert run(new_session=False)["session"] == (words[-1] if words else "0")


def test_who_may_not_go_first_is_as_nice_as_ever() -> None:
    without = ["setpriv", "--inh-caps=-sys_nice", "--bounding-set=-sys_nice"] if os.geteuid() == 0 else []
    seen = run(*without)
    assert (seen["loop"], seen["session"]) == (0, "0")
    assert seen["job"] == seen["job of a thread"] == ["0", "0"]

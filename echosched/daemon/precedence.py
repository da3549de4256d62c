"""The worker before its jobs, where it may: a crowd of them must not keep beats, answers and the next slot waiting.

Linux shares the processors out between sessions first (autogroups, ``sched(7)``), and every job leads one of its
own. A worker whose session weighs as much as one job gets one sixty-fifth of the machine while sixty-four of
them run: of its answers one in a hundred took 10 to 26 ms. Only root may change that; nobody else loses anything.
"""

from __future__ import annotations

import contextlib
import os

NICE = -15
"""For the session and for the thread of the loop; one step is a quarter more time than the other's."""


def go_first() -> None:
    """Put the calling thread before others; call it from the loop's thread, early.

    Nothing of it is handed on: threads and processes that the thread starts are as nice as ever. A daemon that was
    given a niceness, or a policy, keeps it. Never raises.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not allowed
        if os.getpriority(os.PRIO_PROCESS, 0) or os.sched_getscheduler(0) != os.SCHED_OTHER:
            return
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


def weigh_session(*, heavily: bool) -> None:
    """Have this process's session weigh more than a job's, or as much again. Costs some microseconds; never raises.

    Heavily only beside a crowd: with few jobs it would keep the one that has just been started waiting.
    """
    with contextlib.suppress(OSError):
        # A terminal's session is not ours alone, and a niceness that the daemon was given stays.
        if os.getsid(0) == os.getpid() and os.getpriority(os.PRIO_PROCESS, os.getpid()) == NICE:
            # No such file where the kernel does not group by session; no effect where a control group has the say.
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(str(NICE if heavily else 0))

"""What can be known of a daemon without asking it: lock, identity, state and beat files.

Never touches the worker's socket, so a hung worker cannot hang ``status``; imports nothing heavy, so
``status`` costs little more than the interpreter (psutil only where there is no /proc).
"""

from __future__ import annotations

import os

from echosched.daemon import instant, lock, proc, statefile
from echosched.daemon.beat import read_pulse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.daemon.settings import Paths

RUNNING, DEAD_WITH_PIDFILE, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4


def inspect(paths: Paths, *, usage: bool = True) -> dict[str, Any]:
    """Return the daemon's condition, in the words of ``status --json``, and LSB's code as ``lsb``.

    ``running pid health last_activity mode version started_at ready_at uptime_seconds worker_pid restarts
    cpu_seconds rss_bytes last_exit last_worker_exit last_upgrade stopping degraded_since beat_age_seconds
    ready identified paths lsb``. With *usage* false, CPU and memory are not looked up (``None``).

    *identified* tells that the holder of the lock is known beyond its number: only such a process
    may be signalled. *last_exit* is how the daemon ended, or, of a running one, the one before it:
    ``{how, at, exit_code, detail}`` or ``None``. *stopping* is ``{at, reason}`` from the moment on at which
    it was asked to stop: nothing new is started then, whatever *health* says of its loop.
    """
    held = lock.is_held(paths.pidfile)
    pid = lock.read_pid(paths.pidfile)
    document = statefile.read(paths.state)
    pulse = read_pulse(paths.beat)
    facts = _blank(paths)
    if held:
        _describe_running(facts, pid, document, pulse, usage=usage)
        return facts
    if document is not None:
        facts["last_exit"] = statefile.verdict(document, pulse.wall_micros if pulse else None)
        facts["mode"] = document.get("mode")
        facts["version"] = document.get("version")
        facts["last_activity"] = facts["last_exit"]["at"]
        facts["last_worker_exit"] = document.get("last_worker_exit")
    if held is None:
        facts.update(lsb=UNKNOWN, pid=None)
    elif os.path.lexists(paths.pidfile):  # whatever is in it
        facts["lsb"] = DEAD_WITH_PIDFILE
    return facts


def _blank(paths: Paths) -> dict[str, Any]:
    return {
        "running": False,
        "pid": None,
        "last_activity": None,
        "health": "stopped",
        "mode": None,
        "version": None,
        "started_at": None,
        "ready_at": None,
        "uptime_seconds": None,
        "worker_pid": None,
        "restarts": None,
        "cpu_seconds": None,
        "rss_bytes": None,
        "last_exit": None,
        "last_worker_exit": None,
        "last_upgrade": None,
        "stopping": None,
        "degraded_since": None,
        "beat_age_seconds": None,
        "ready": False,
        "identified": False,
        "paths": paths.as_dict(),
        "lsb": NOT_RUNNING,
    }


def _describe_running(
    facts: dict[str, Any], pid: int | None, document: dict[str, Any] | None, pulse: Any, *, usage: bool
) -> None:
    facts.update(running=True, pid=pid, lsb=RUNNING, health="stalled")
    if document is None or document["pid"] != pid or document.get("ended"):
        facts["health"] = "degraded"  # locked, but the daemon has not written its state yet: starting
        return
    facts["identified"] = statefile.describes(document, pid) or _is_the_very_process(document, pid)
    started = document.get("started_micros")
    facts.update(
        mode=document.get("mode"),
        version=document.get("version"),
        started_at=instant.text_of(started) if started else None,
        ready_at=instant.text_of(document["ready_micros"]) if document.get("ready_micros") else None,
        uptime_seconds=max(0.0, (instant.now_micros() - started) / 1e6) if started else None,
        restarts=document.get("restarts"),
        last_exit=document.get("previous"),
        last_worker_exit=document.get("last_worker_exit"),
        last_upgrade=document.get("last_upgrade"),
        stopping=document.get("stopping"),
        ready=bool(document.get("ready_micros")),
    )
    if pulse is not None and (facts["identified"] or document.get("boot_id") == proc.boot_id()):
        facts["worker_pid"] = pulse.worker_pid or None
        facts["last_activity"] = instant.text_of(pulse.wall_micros)
        facts["beat_age_seconds"] = pulse.age_seconds
        if pulse.degraded_since_micros:
            facts["degraded_since"] = instant.text_of(pulse.degraded_since_micros)
        if pulse.stalled:
            facts["health"] = "stalled"
        elif pulse.degraded_since_micros or pulse.is_ailing:
            facts["health"] = "degraded"
        elif not pulse.worker_pid or not pulse.beats or not facts["ready"]:
            # Between two workers, or warming up: nothing is late yet, nothing is served either.
            facts["health"] = "degraded"
        else:
            facts["health"] = "ok"
    if usage and facts["identified"]:
        facts["cpu_seconds"], facts["rss_bytes"] = _usage(pid, facts["worker_pid"])


def _is_the_very_process(document: dict[str, Any], pid: int | None) -> bool:
    """Tell whether the holder of the lock, *pid*, is the process of *document*, whatever the boot is called.

    A container's manager mounts a boot id of its own over the kernel's, and a sandboxed unit inside may see
    through to the kernel's: two names of one boot. A lock does not outlive a boot, so none is needed here.
    """
    return (
        pid is not None
        and document.get("pid_namespace") == proc.pid_namespace()
        and proc.is_alive(pid, document.get("start_ticks"))
    )


def _usage(*pids: int | None) -> tuple[float | None, int | None]:
    """Return CPU seconds and resident bytes of supervisor and worker, without the jobs below them."""
    found = [used for pid in pids if pid is not None and (used := proc.usage(pid)) is not None]
    if not found:
        return None, None
    return round(sum(cpu for cpu, _ in found), 2), sum(rss for _, rss in found)

"""Who owns the daemon on this host: do detached processes live here, does systemd manage it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

UNIT = "echosched.service"


def foreground_reason(environment: Mapping[str, str] | None = None, pid: int | None = None) -> str | None:
    """Return why ``start`` must stay in the foreground here, ``None`` when it may detach.

    A container alone is no reason. The answer is half a sentence for the operator.
    """
    environ = os.environ if environment is None else environment
    if (os.getpid() if pid is None else pid) == 1:
        return "this is process 1: when it ends, everything here ends"
    if any(name == "REPL_ID" or name.startswith("REPLIT_") for name in environ):
        return "Replit ends detached processes"
    if environ.get("NOTIFY_SOCKET"):
        return "a service manager started this and waits for it (NOTIFY_SOCKET)"
    if environ.get("SUPERVISOR_ENABLED"):
        return "supervisord started this and must keep it as its child"
    return None


def ends_detached_processes() -> bool:
    """Tell whether a process detached here would not live (or would not be wanted)."""
    return foreground_reason() is not None


def systemd_unit(unit: str = UNIT, environment: Mapping[str, str] | None = None) -> str | None:
    """Return *unit* if systemd runs this host, has that unit, and did not itself start this process.

    Only then are start, stop, restart and reload of the system instance handed to ``systemctl``.
    """
    environ = os.environ if environment is None else environment
    if not os.path.isdir("/run/systemd/system"):
        return None
    # Inside the unit, systemctl would wait for the very job that is running this.
    if environ.get("NOTIFY_SOCKET") or (environ.get("INVOCATION_ID") and os.getppid() == 1):
        return None
    try:
        shown = subprocess.run(
            ["systemctl", "show", "--property=LoadState", "--value", unit],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return unit if shown.stdout.strip() == "loaded" else None


def hand_to_systemd(verb: str, unit: str = UNIT) -> int:
    """Run ``systemctl VERB UNIT`` on this terminal and return its exit code."""
    return subprocess.run(["systemctl", verb, unit], check=False).returncode

"""Resource limits of a job: they belong to a process, so another program has to set them before the job's.

That is util-linux's ``prlimit`` (half a millisecond); where it is missing, or the account changes as
well (root may raise limits, the account may not), Python does both (some 15 ms).
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache

from echosched.errors import ExecutionError
from echosched.executor import child

_CHILD = os.path.abspath(child.__file__)
_PLACES = ("/usr/bin/prlimit", "/bin/prlimit")

Limits = tuple[tuple[str, int], ...]
Change = tuple[int, int, tuple[int, ...]]


def check(limits: Limits) -> None:
    """Raise ``ExecutionError`` for a limit that does not exist or that we may not give."""
    import resource

    for name, value in limits:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise ExecutionError(f"limits.{name}: no such limit")
        hard = resource.getrlimit(number)[1]
        above = hard != resource.RLIM_INFINITY and (value < 0 or value > hard)
        if above and os.geteuid() != 0:
            raise ExecutionError(f"limits.{name}: {value} is above the daemon's own hard limit of {hard}")


def behind(path: str, argv: list[str], limits: Limits, account: Change | None) -> list[str]:
    """Return *argv* (whose program is *path*) behind the program that sets *limits* and *account* first."""
    prlimit = _prlimit() if account is None else None
    if prlimit is not None:
        options = [f"--{name}={'unlimited' if value < 0 else value}" for name, value in limits]
        return [prlimit, *options, "--", path, *argv[1:]]
    spec = json.dumps({"limits": limits, "account": account})
    return [sys.executable, "-I", "-S", _CHILD, "exec", spec, path, *argv]


@cache
def _prlimit() -> str | None:
    return next((place for place in _PLACES if os.access(place, os.X_OK)), None)

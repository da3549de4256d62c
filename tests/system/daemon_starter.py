"""A command line for the daemon room alone: ``python daemon_starter.py HOME VERB [JSON]``.

VERB: ``start`` ``stop`` ``status`` ``foreground`` ``alone`` and the verbs of control.send. JSON: ``mode``
of the worker, ``settings`` of the daemon, ``options`` of the verb.
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from echosched.daemon import control
from echosched.daemon.inspect import inspect
from echosched.daemon.launcher import launch
from echosched.daemon.settings import Paths, Settings
from echosched.errors import EchoschedError

HERE = os.path.dirname(os.path.abspath(__file__))


def paths_in(home: str) -> Paths:
    return Paths(
        pidfile=f"{home}/e.pid",
        state=f"{home}/e.state.json",
        log=f"{home}/e.log",
        out=f"{home}/e.out",
        db=f"{home}/e.db",
    )


def main() -> int:
    home, verb = sys.argv[1:3]
    wishes = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    options = wishes.get("options", {})
    paths = paths_in(home)
    for name, value in wishes.get("paths", {}).items():
        setattr(paths, name, value)
    settings = Settings(
        paths=paths,
        worker_argv=[
            wishes.get("program", sys.executable),
            f"{HERE}/daemon_worker.py",
            f"{home}/notes",
            wishes.get("mode", "serve"),
        ],
        worker_env={"PYTHONPATH": os.path.dirname(os.path.dirname(HERE))},
        version="test",
        program="test",
        **{"backoff_first": 0.1, "start_wait": 20.0, **wishes.get("settings", {})},
    )
    try:
        if verb == "status":
            facts = inspect(paths)
            print(json.dumps(facts))
            return int(facts["lsb"])
        if verb == "stop":
            print(control.stop_daemon(paths, **{"timeout": 20, **options}))
        elif verb in ("start", "foreground", "alone"):
            outcome = launch(settings, foreground=verb == "foreground", supervise=verb != "alone", **options)
            print(outcome.pid, "already" if outcome.already else "started")
        else:
            print(control.send(paths, verb))
    except EchoschedError as error:
        print(f"test: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``service``: scheduler and web server by the same machinery, each with its own result line.

Nothing here waits without a bound. On hosts that end detached processes ``start`` stays in the
foreground with both as its children.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from echosched.app.daemon import web_settings
from echosched.cli import render
from echosched.cli.session import count_of, paths_of
from echosched.cli.web import port_of
from echosched.errors import EX_ERROR, EX_OK, EchoschedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from echosched.config.paths import Paths
    from echosched.daemon.settings import Settings

VERBS = ("start", "stop", "restart", "status", "logs")
PARTS = ("scheduler", "web")
UNITS = {"scheduler": "echosched.service", "web": "echosched-web.service"}
START_SECONDS = 60.0
WEB_SECONDS = 10.0


def service(arguments: dict[str, Any]) -> int:
    """Do a verb to one part or to all; the exit code is the worst of theirs."""
    verb, which = arguments["<verb>"], arguments["<which>"] or "all"
    if verb not in VERBS:
        raise UsageError(f"service: {verb}: no such verb ({', '.join(VERBS)})")
    if which not in (*PARTS, "all"):
        raise UsageError(f"service: {which}: no such part (all, {', '.join(PARTS)})")
    parts = list(PARTS) if which == "all" else [which]
    paths = paths_of(arguments)
    if verb == "start":
        from echosched.daemon.host import foreground_reason

        if (reason := foreground_reason()) is not None:
            return _stay(paths, parts, arguments, reason)
    if verb == "status" and arguments["--json"]:
        render.print_json({part: _facts(paths, part) for part in parts})
        return max(_code(paths, part) for part in parts)
    if verb == "logs":
        return _logs(paths, parts, arguments)
    actions: dict[str, Callable[[Paths, str, dict[str, Any]], tuple[int, str]]] = {
        "start": _start,
        "stop": _stop,
        "restart": _restart,
        "status": _status,
    }
    # The web server goes first when stopping: it must not start the scheduler again meanwhile.
    order = reversed(parts) if verb == "stop" else parts
    return max(_tell(part, actions[verb], paths, arguments) for part in order)


def _tell(part: str, action: Any, paths: Paths, arguments: dict[str, Any]) -> int:
    try:
        code, line = action(paths, part, arguments)
    except EchoschedError as error:
        code, line = error.exit_code, str(error)
    print(f"{part:<10} {line}", flush=True)
    return int(code)


def _settings(paths: Paths, part: str, arguments: dict[str, Any]) -> Settings:
    from echosched.app.daemon import daemon_settings
    from echosched.config.daemon_settings import read_daemon_settings

    if part == "web":
        return web_settings(paths, host=arguments["--host"], port=port_of(arguments))
    return daemon_settings(paths, read_daemon_settings(paths))


def _start(paths: Paths, part: str, arguments: dict[str, Any]) -> tuple[int, str]:
    from echosched.daemon.launcher import launch

    if _is_systemds("start", part, arguments):
        return EX_OK, "started by systemd"
    keyless = part == "web" and not os.path.exists(paths.web_key)
    outcome = launch(_settings(paths, part, arguments), wait=START_SECONDS)
    line = f"{'running already' if outcome.already else 'started'} (pid {outcome.pid})"
    if part == "web":
        line += _where(paths, keyless=keyless)
    return EX_OK, line


def _is_systemds(verb: str, part: str, arguments: dict[str, Any]) -> bool:
    """Let systemd do *verb* where it has the unit of *part*; an address of one's own is not the unit's."""
    from echosched.cli.lifecycle import handed_to_systemd

    if part == "web" and (arguments["--host"] or arguments["--port"]):
        return False
    return handed_to_systemd(verb, arguments, UNITS[part])


def _where(paths: Paths, *, keyless: bool) -> str:
    """Return where the dashboard is, as the server said; and the key, the once that it was made."""
    told = []
    try:
        with open(_paths(paths, "web").out, errors="replace") as file:
            told = [line.strip() for line in file if line.startswith("dashboard: ")][-1:]
        if keyless:
            with open(paths.web_key) as file:
                told.append(f"key: {file.read().strip()} (named this once; kept in {paths.web_key})")
    except OSError:
        pass  # DASHBOARD_KEY is in force, or the file is not ours to read
    return "".join(f"\n{'':<10} {line}" for line in told)


def _stop(paths: Paths, part: str, arguments: dict[str, Any]) -> tuple[int, str]:
    from echosched.daemon.control import stop_daemon

    if _is_systemds("stop", part, arguments):
        return EX_OK, "stopped by systemd"
    settings = web_settings(paths) if part == "web" else None
    if settings is None:
        from echosched.cli.lifecycle import stop_seconds

        timeout = stop_seconds(paths)
    else:
        timeout = settings.grace + 15.0
    pid = stop_daemon(_paths(paths, part), timeout=timeout)
    return EX_OK, "not running" if pid is None else f"stopped (pid {pid})"


def _restart(paths: Paths, part: str, arguments: dict[str, Any]) -> tuple[int, str]:
    _settings(paths, part, arguments)  # a bad configuration is told before anything is stopped
    if _is_systemds("restart", part, arguments):
        return EX_OK, "restarted by systemd"
    _stop(paths, part, arguments)
    code, line = _start(paths, part, arguments)
    return code, line.replace("started", "restarted", 1)


def _paths(paths: Paths, part: str) -> Any:
    from echosched.app.daemon import daemon_paths

    return web_settings(paths).paths if part == "web" else daemon_paths(paths)


def _facts(paths: Paths, part: str) -> dict[str, Any]:
    if part == "scheduler":
        from echosched.control.client import full_status

        return full_status(paths)
    from echosched.daemon.inspect import inspect

    return inspect(_paths(paths, part))


def _code(paths: Paths, part: str) -> int:
    return int(_facts(paths, part)["lsb"])


def _status(paths: Paths, part: str, arguments: dict[str, Any]) -> tuple[int, str]:
    from echosched.daemon.inspect import UNKNOWN

    facts = _facts(paths, part)
    if facts["lsb"] == UNKNOWN:
        return UNKNOWN, f"unknown: {facts['paths']['pidfile']} cannot be read (ask as its user, or as root)"
    if not facts["running"]:
        how = f", last exit {facts['last_exit']['how']}" if facts["last_exit"] else ""
        return facts["lsb"], f"not running{how}"
    age = facts["uptime_seconds"]  # not known to who may not read the state file
    lasts = "" if age is None else f", for {render.seconds(age)}"
    return facts["lsb"], f"running (pid {facts['pid']}), {facts['health']}{lasts}"


def _logs(paths: Paths, parts: list[str], arguments: dict[str, Any]) -> int:
    from echosched.cli.logs import show

    count = count_of("-n", arguments["-n"])
    if arguments["--follow"] and len(parts) > 1:
        raise UsageError("service logs: --follow goes with one part (scheduler or web)")
    for part in parts:
        if len(parts) > 1:
            print(f"── {part}")
        file = paths.log if part == "scheduler" else _paths(paths, part).out
        try:
            show(file, count, follow=arguments["--follow"], raw=not sys.stdout.isatty(), plain=part == "web")
        except EchoschedError as error:
            print(f"echoschedd: {error}", file=sys.stderr)
    return EX_OK


# ── hosts that end detached processes ─────────────────────────────────────────────────────────


def _stay(paths: Paths, parts: list[str], arguments: dict[str, Any], reason: str) -> int:
    """Run the parts as children in the foreground until they end or a signal comes."""
    print(f"echoschedd: staying in the foreground: {reason}", file=sys.stderr, flush=True)
    children: dict[str, subprocess.Popen[bytes]] = {}
    told: set[int] = set()

    def pass_on(number: int, _frame: object) -> None:
        told.add(number)
        for child in children.values():
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for part in parts:
        child = children[part] = subprocess.Popen(_foreground(paths, part, arguments))
        if not told and _is_up(paths, part, child):
            print(f"{part:<10} started (pid {child.pid})", flush=True)
    while all(child.poll() is None for child in children.values()):
        time.sleep(0.2)
    asked = bool(told)
    if not asked:  # one ended by itself: the other must not go on as if all were well
        pass_on(signal.SIGTERM, None)
    codes = [child.wait() for child in children.values()]
    if asked:
        return EX_OK
    for part, code in zip(children, codes, strict=True):
        print(f"{part:<10} ended with exit code {code}", file=sys.stderr)
    return EX_ERROR if any(codes) else EX_OK


def _is_up(paths: Paths, part: str, child: subprocess.Popen[bytes]) -> bool:
    """Wait until *child* has said that it is ready; tell whether it has."""
    from echosched.daemon.inspect import inspect

    deadline = time.monotonic() + (START_SECONDS if part == "scheduler" else WEB_SECONDS)
    while child.poll() is None and time.monotonic() < deadline:
        facts = inspect(_paths(paths, part), usage=False)
        if facts["ready"] and facts["pid"] == child.pid:
            return True
        time.sleep(0.05)
    # A web server that may not write there serves all the same, and has said so.
    return part == "web" and child.poll() is None


def _foreground(paths: Paths, part: str, arguments: dict[str, Any]) -> list[str]:
    words = [sys.executable, "-m", "echosched.cli"]
    if part == "scheduler":
        return [*words, "start", "--foreground", *paths.options()]
    extra = [word for name in ("--host", "--port") if arguments[name] for word in (name, arguments[name])]
    return [*words, "web", *paths.options(), *extra]

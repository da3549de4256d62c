"""``start``, ``stop``, ``restart``, ``reload``, ``upgrade``, and the worker that the supervisor starts."""

from __future__ import annotations

import os
import sys
import time

from echosched.app.daemon import daemon_paths, daemon_settings, mark_format
from echosched.cli.session import client_of, paths_of, seconds_of
from echosched.config.paths import resolve_paths
from echosched.errors import EX_OK, DaemonError, EchoschedError, NotRunning, StartFailed, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.config.paths import Paths

UPGRADE_SECONDS = 60.0


def start(arguments: dict[str, Any]) -> int:
    """Start the daemon, or say that it runs already."""
    from echosched.config.daemon_settings import read_daemon_settings
    from echosched.daemon.launcher import launch

    if arguments["--foreground"] and arguments["--detach"]:
        raise UsageError("start: --foreground and --detach exclude each other")
    paths = paths_of(arguments)
    foreground = arguments["--foreground"] or arguments["--no-supervise"]
    if not foreground and not arguments["--detach"]:
        if handed_to_systemd("start", arguments):
            return EX_OK
        foreground = _must_stay()
    daemon = read_daemon_settings(paths)
    wait = seconds_of("--wait", arguments["--wait"]) if arguments["--wait"] != "30s" else None
    outcome = launch(
        daemon_settings(paths, daemon, debug=arguments["--debug"]),
        foreground=foreground,
        exclusive=arguments["--exclusive"],
        force=arguments["--force"],
        supervise=not arguments["--no-supervise"],
        wait=wait,
    )
    said = "running already" if outcome.already else "started"
    print(f"echoschedd {said} (pid {outcome.pid})")
    if not outcome.already:
        _count_transitions(arguments)
    return EX_OK


def _count_transitions(arguments: dict[str, Any]) -> None:
    """Say how many jobs meet a daylight-saving change within a year, as the worker counted them."""
    try:
        with client_of(arguments, timeout=2.0) as client:
            count = client.call("daylight")["jobs"]
    except EchoschedError:
        return  # it runs: that is what was asked
    if count:
        meet = "job meets" if count == 1 else "jobs meet"
        print(f"{count} {meet} a daylight-saving change within a year (echoschedd check)")


def _must_stay() -> bool:
    """Tell whether this host ends detached processes, and say so."""
    from echosched.daemon.host import foreground_reason

    reason = foreground_reason()
    if reason is None:
        return False
    print(
        f"echoschedd: staying in the foreground: {reason} (--detach detaches all the same)", file=sys.stderr
    )
    return True


def handed_to_systemd(verb: str, arguments: dict[str, Any], unit: str = "echosched.service") -> bool:
    """Let systemd do *verb* to *unit* where the command means the system instance and systemd has that unit.

    Also for the dashboard, which is the system's but not root: polkit decides what it may.
    """
    system = resolve_paths(environ={"ECHOSCHED_SYSTEM": "1"})
    if paths_of(arguments, talks=False) != system or (
        os.geteuid() != 0 and os.environ.get("ECHOSCHED_SYSTEM") != "1"
    ):
        return False
    from echosched.daemon.host import hand_to_systemd, systemd_unit

    if systemd_unit(unit) is None:
        return False
    print(f"echoschedd: {unit} is installed here: systemctl {verb} {unit}", file=sys.stderr)
    code = hand_to_systemd(verb, unit)
    if code != 0:
        raise DaemonError(
            f"{verb}: systemctl failed (systemctl status {unit})", exit_code=code if code < 8 else 1
        )
    return True


def stop(arguments: dict[str, Any]) -> int:
    """Stop the daemon and wait until it is gone."""
    from echosched.daemon.control import stop_daemon

    if not arguments["--force"] and handed_to_systemd("stop", arguments):
        return EX_OK
    paths = paths_of(arguments, talks=False)  # a signal stops it, whatever socket it was given
    timeout = (
        seconds_of("--timeout", arguments["--timeout"]) if arguments["--timeout"] else stop_seconds(paths)
    )
    waiting = _Waiting(paths)
    pid = stop_daemon(
        daemon_paths(paths),
        timeout=timeout,
        force=arguments["--force"],
        on_wait=waiting.tell,
        child_mark=mark_format(paths),
    )
    print("not running" if pid is None else f"stopped (pid {pid})")
    return EX_OK


def stop_seconds(paths: Paths) -> float:
    """Return how long a stop may take: the daemon's own grace, then TERM, 5 s, KILL, and a little."""
    from echosched.config.daemon_settings import DaemonConfig, read_daemon_settings

    try:
        grace = read_daemon_settings(paths).grace
    except EchoschedError:
        grace = DaemonConfig().grace  # a broken configuration must not keep anybody from stopping
    return grace.total_seconds() + 15.0


class _Waiting:
    """Shows which jobs a stop waits for, once for each change."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._told = ""

    def tell(self, waited: float) -> None:
        """Say what is still running after *waited* seconds."""
        from echosched.control.client import ControlClient

        try:
            with ControlClient(self._paths.socket, timeout=0.5) as client:
                runs = client.call("running")
        except EchoschedError:
            return
        text = ", ".join(f"{run['job']} (run {run['run']})" for run in runs[:5])
        if len(runs) > 5:
            text += f" and {len(runs) - 5} more"
        if text and text != self._told:
            self._told = text
            print(f"waiting for {text}", file=sys.stderr)


def restart(arguments: dict[str, Any]) -> int:
    """Stop and start, once the configuration is known to be good."""
    from echosched.config.load import load
    from echosched.daemon.control import stop_daemon
    from echosched.daemon.launcher import launch

    paths = paths_of(arguments)
    config = load(paths=paths)
    keep = arguments["--keep-jobs"]
    if not keep and handed_to_systemd("restart", arguments):
        return EX_OK
    stopped = stop_daemon(
        daemon_paths(paths),
        timeout=config.daemon.grace.total_seconds() + 15.0,
        keep_jobs=keep,
        on_wait=_Waiting(paths).tell,
        child_mark=mark_format(paths),
    )
    outcome = launch(daemon_settings(paths, config.daemon), foreground=_must_stay())
    print(f"echoschedd {'restarted' if stopped else 'started'} (pid {outcome.pid})")
    return EX_OK


def reload(arguments: dict[str, Any]) -> int:
    """Ask the daemon to read its configuration again, and print its verdict."""
    with client_of(arguments) as client:
        answer = client.call("reload")
    for warning in answer.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    changes = ", ".join(f"{len(answer[key])} {key}" for key in ("added", "removed", "changed") if answer[key])
    print(f"reloaded: {answer['jobs']} jobs ({changes or 'nothing changed'})")
    return EX_OK


def upgrade(arguments: dict[str, Any]) -> int:
    """Replace supervisor and worker by what is installed now, under running jobs."""
    from echosched.daemon.control import send
    from echosched.daemon.inspect import inspect

    paths = daemon_paths(paths_of(arguments))
    before = inspect(paths, usage=False)
    if not before["running"]:
        raise NotRunning("not running (echoschedd start)")
    send(paths, "upgrade")
    deadline = time.monotonic() + UPGRADE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.02)
        after = inspect(paths, usage=False)
        verdict = after["last_upgrade"]
        if verdict is not None and verdict != before["last_upgrade"]:
            if verdict.get("ok"):
                print(f"upgraded to {after['version']} (pid {after['pid']}, worker {after['worker_pid']})")
                return EX_OK
            raise StartFailed(f"upgrade: {verdict.get('detail') or 'refused'} (the old version goes on)")
        if not after["running"]:
            raise StartFailed("upgrade: the daemon is gone (echoschedd status)")
    raise DaemonError(f"upgrade: no answer within {UPGRADE_SECONDS:.0f} s (echoschedd logs)")


def worker(verb: str, words: list[str]) -> int:
    """Be what a supervisor supervises: the scheduler (``_worker``) or the web server (``_web``)."""
    from echosched.config.paths import resolve_paths

    debug = "--debug" in words
    pairs = [word for word in words if word != "--debug"]
    options: dict[str, Any] = {
        name.removeprefix("--"): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)
    }
    if verb == "_web":
        from echosched.cli.web import worker as serve

        port = options.pop("port", None)
        host = options.pop("host", None)
        return serve(resolve_paths(**options), host, None if port is None else int(port))
    from echosched import tls

    tls.put_off()
    from echosched.app.worker import run_worker

    return run_worker(resolve_paths(**options), debug=debug)

"""``status``: what is known without asking anybody, and what the worker adds when it answers."""

from __future__ import annotations

from echosched.cli.session import paths_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def status(arguments: dict[str, Any]) -> int:
    """Show the daemon's condition; the exit code is LSB's."""
    from echosched.control.client import full_status

    paths = paths_of(arguments, talks=False)  # lock, state and beat tell most of it
    if arguments["--watch"]:
        if arguments["--json"]:
            from echosched.errors import UsageError

            raise UsageError("status: --watch is for people; for programs, ask for --json again and again")
        from echosched.cli.watch import watch

        return int(watch(paths))
    document = full_status(paths)
    if arguments["--json"]:
        import json
        import sys

        print(json.dumps(document, indent=2 if sys.stdout.isatty() else None))
    else:
        _show(document)
    return int(document["lsb"])


def _show(document: dict[str, Any]) -> None:
    from echosched.cli import render

    if render.fancy() and document["next"]:
        from echosched.cli import pretty
        from echosched.clock import SystemClock

        now = SystemClock().now()
        rows = [
            (n["job"], render.instant(n["at"]), render.relative(n["at"], now)) for n in document["next"][:5]
        ]
        pretty.status(lines(document, coming=0), rows)
        return
    for line in lines(document):
        print(line)


def lines(document: dict[str, Any], *, coming: int = 5) -> list[str]:
    """Return *document* as lines for people, the verdict first, with the *coming* next slots."""
    from echosched.cli import render
    from echosched.clock import SystemClock
    from echosched.daemon.inspect import DEAD_WITH_PIDFILE, UNKNOWN

    now = SystemClock().now()
    health = document["health"]
    tone = {"ok": "good", "degraded": "warn", "stalled": "bad", "stopped": "dim"}[health]
    if not document["running"]:
        if document["lsb"] == UNKNOWN:
            verdict = render.paint("whether echoschedd runs is unknown", "bad")
            return [f"{verdict}: {document['paths']['pidfile']} cannot be read (ask as its user, or as root)"]
        shown = [
            render.paint(
                "echoschedd is not running", "bad" if document["lsb"] == DEAD_WITH_PIDFILE else "bold"
            )
        ]
        if document["lsb"] == DEAD_WITH_PIDFILE:
            shown[0] += f": it died and left {document['paths']['pidfile']}"
        return shown + _last_exit(document)
    head = f"echoschedd is running (pid {document['pid'] or 'unknown'}): "
    if document["mode"] is None:  # the lock is all that is known of it
        return [head + render.paint(_unread(document["paths"]["state"]), tone)]
    words = {
        "ok": "ok",
        "degraded": "degraded" + _because(document),
        "stalled": "STALLED: the scheduler's loop makes no progress",
    }
    shown = [head + render.paint(words[health], tone) + _stopping(document)]
    facts = [
        ("since", f"{render.instant(document['started_at'])} ({render.seconds(document['uptime_seconds'])})"),
        ("activity", render.relative(document["last_activity"], now)),
        ("mode", f"{document['mode']}, version {document['version']}"),
        ("worker", f"{_worker(document)}, {document['restarts']} restarts"),
        ("usage", f"{document['cpu_seconds']} s CPU, {render.size(document['rss_bytes'])} memory"),
    ]
    if document["jobs"] is not None:
        jobs, runs = document["jobs"], document["runs"]
        paused = f", {jobs['paused']} paused" if jobs["paused"] else ""
        parked = f", {jobs['parked']} parked" if jobs.get("parked") else ""
        facts.append(("jobs", f"{jobs['total']}{paused}{parked}"))
        facts.append(
            ("runs", ", ".join(f"{count} {state}" for state, count in runs.items() if count) or "none yet")
        )
    if document.get("cluster") is not None:
        facts.append(("cluster", _cluster(document["cluster"])))
    shown += [f"  {name:<9} {text}" for name, text in facts]
    shown += [
        f"  {'next':<9} {render.instant(n['at'])}  {n['job']} ({render.relative(n['at'], now)})"
        for n in document["next"][:coming]
    ]
    return shown + _last_exit(document)


def _unread(state: str) -> str:
    """Return why a running daemon's *state* file says nothing."""
    from echosched.daemon.statefile import is_withheld

    if is_withheld(state):
        return f"{state} may not be read (ask as its user, or as root)"
    return "it has not said anything of itself yet"


def _cluster(cluster: dict[str, Any]) -> str:
    """Return this host's part in its cluster, and which of the others needs a look."""
    head = f"{cluster['instance']}, over {cluster['database']}"
    if cluster["instances"] is None:
        return f"{head}: {cluster['error']}"
    from echosched.cli.cluster import condition, remarks

    count: dict[str, int] = {}
    for row in cluster["instances"]:
        count[condition(row)] = count.get(condition(row), 0) + 1
    told = [f"{n} {state}" for state, n in count.items()] + [
        line.strip() for line in remarks(cluster["instances"])
    ]
    return f"{head}: {'; '.join(told)}"


def _stopping(document: dict[str, Any]) -> str:
    """Return what to say of a daemon that was asked to stop: it still runs, but starts nothing any more."""
    stopping = document.get("stopping")
    if not stopping:
        return ""
    reason = stopping["reason"]
    count = (document["runs"] or {}).get("running", 0)
    waits = f", waiting for {count} running job{'' if count == 1 else 's'}" if count else ""
    return f", stopping{f' ({reason})' if reason else ''}{waits}"


def _because(document: dict[str, Any]) -> str:
    reasons = document.get("reasons") or []
    if not reasons and document["degraded_since"]:
        return f" since {document['degraded_since']}"
    return ": " + "; ".join(reasons) if reasons else ""


def _last_exit(document: dict[str, Any]) -> list[str]:
    last = document["last_exit"]
    if not last:
        return []
    detail = f": {last['detail']}" if last.get("detail") else ""
    when = f" at {last['at'][:19].replace('T', ' ')}Z" if last.get("at") else ""
    return [f"  {'last exit':<9} {last['how']}{when}{detail}"]


def _worker(document: dict[str, Any]) -> str:
    pid = document["worker_pid"]
    return "none at the moment" if pid is None else f"pid {pid}"

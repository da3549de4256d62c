"""``jobs``, ``next``, ``pause``, ``resume``.

The first two only look, and answer without a daemon too: what is configured, and when it would come due.
"""

from __future__ import annotations

import sys
from typing import Any

from echosched.cli import render
from echosched.cli.session import client_of, count_of, paths_of
from echosched.clock import SystemClock
from echosched.errors import NotRunning, UsageError


def jobs(arguments: dict[str, Any]) -> int:
    """Show all jobs with their state and next slot."""
    rows = _look(arguments, "jobs", details=False)
    if arguments["--json"]:
        render.print_json(rows)
        return 0
    if not rows:
        print("no jobs: the configuration defines none (echoschedd check shows what was read)")
        return 0
    now = SystemClock().now()
    lines, tones = [], []
    for row in rows:
        last = row["last_run"]
        state = _state(row)
        lines.append(
            [
                row["name"],
                state,
                render.instant(row["next_at"]),
                render.relative(row["next_at"], now),
                "" if last is None else last["state"],
                row["schedule"] + ("" if row["timezone"] == "UTC" else f" ({row['timezone']})"),
            ]
        )
        tones.append("dim" if state in ("paused", "disabled") else "bad" if state == "parked" else None)
    render.table(["JOB", "STATE", "NEXT", "", "LAST", "SCHEDULE"], lines, tones)
    return 0


def _look(arguments: dict[str, Any], op: str, **query: Any) -> Any:
    """Ask the daemon, or where none runs what lies there; stderr says so then."""
    try:
        with client_of(arguments) as client:
            return client.call(op, **query)
    except NotRunning:
        import asyncio

        from echosched.operations.offline import Records

        found = asyncio.run(Records(paths_of(arguments), coming=True).call(op, query))
        shown = "this is what is configured, and when it would come due"
        print(f"echoschedd: no daemon runs: {shown} (echoschedd start)", file=sys.stderr)
        return found


def _state(row: dict[str, Any]) -> str:
    if row.get("parked"):
        return "parked"
    if not row["enabled"]:
        return "disabled"
    return "paused" if row["paused"] else "active"


def next(arguments: dict[str, Any]) -> int:
    """Show coming slots of jobs, or of any expression."""
    count = count_of("-n", arguments["-n"], least=1)
    if arguments["--schedule"] is not None:
        if arguments["<job>"] is not None:
            raise UsageError("next: a job and --schedule exclude each other")
        slots = _of_expression(arguments, count)
    else:
        if arguments["--from"] is not None:
            raise UsageError("next: --from goes with --schedule (simulate shows any period of all jobs)")
        if arguments["--dst"] != "once" or arguments["--timezone"] != "UTC":
            raise UsageError("next: --timezone and --dst go with --schedule (a job has its own)")
        slots = _look(arguments, "next", job=arguments["<job>"], n=count)
    from echosched.cli.slots import show_slots

    show_slots(slots, arguments, distance=arguments["--from"] is None)
    return 0


def _of_expression(arguments: dict[str, Any], count: int) -> list[dict[str, Any]]:
    from echosched.cli.slots import dst_of, instant_of, slot_rows
    from echosched.schedule import parse_schedule

    schedule = parse_schedule(
        arguments["--schedule"], arguments["--timezone"], dst=dst_of(arguments["--dst"])
    )
    start = SystemClock().now() if arguments["--from"] is None else instant_of("--from", arguments["--from"])
    return slot_rows(schedule, start, count)


def pause(arguments: dict[str, Any]) -> int:
    """Let no slot of a job come due."""
    with client_of(arguments) as client:
        answer = client.call("pause", job=arguments["<job>"])
    print(f"{answer['job']} paused" if answer["changed"] else f"{answer['job']} was paused already")
    return 0


def resume(arguments: dict[str, Any]) -> int:
    """Let a job's slots come due again."""
    with client_of(arguments) as client:
        answer = client.call("resume", job=arguments["<job>"])
    print(f"{answer['job']} resumed" if answer["changed"] else f"{answer['job']} was not paused")
    return 0

"""``cluster``: the instances that share a database, shown and tended from any host that has the configuration.

The daemon of this host is asked first. Where none runs (or it does not answer) the database itself is asked: the
host to be removed is often the one that is gone. Kept light: ``status`` imports this in a cluster.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from echosched.cli import render
from echosched.cli.session import client_of, paths_of
from echosched.clock import SystemClock
from echosched.errors import EX_OK, NotRunning, Unreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIONS = ("status", "drain", "remove")
LOOK_SECONDS = 0.5


def cluster(arguments: dict[str, Any]) -> int:
    """Carry out an action on the cluster, or to one of its instances."""
    action, name = arguments["<action>"], arguments["<instance>"]
    if action not in ACTIONS:
        from echosched.config.values import nearest

        known = f" ({', '.join(ACTIONS)})"
        raise UsageError(f"cluster: {action}: no such action{nearest(action, ACTIONS) or known}")
    for option in ("--undo", "--wait"):
        if arguments[option] and action != "drain":
            raise UsageError(f"cluster {action}: {option} goes with drain")
    return {"status": _status, "drain": _drain, "remove": _remove}[action](arguments, name)


def _status(arguments: dict[str, Any], name: str | None) -> int:
    document = _ask(arguments, "cluster")
    if document is None:
        from echosched.operations.cluster import alone

        raise alone()
    if name is not None:
        from echosched.errors import NotFound

        document["instances"] = [row for row in document["instances"] if row["name"] == name]
        if not document["instances"]:
            raise NotFound(
                f"instance {name}: there is no such instance (echoschedd cluster status lists them)"
            )
    if arguments["--json"]:
        render.print_json(document)
    else:
        show(document)
    return EX_OK


def show(document: dict[str, Any]) -> None:
    """Print who takes part, and below it what each of them runs and where definitions differ."""
    now = SystemClock().now()
    rows = document["instances"]
    if not rows:
        print(f"{document['database']}: no instance has joined yet")
        return
    header = ["INSTANCE", "STATE", "BEAT", "RUNS", "OF", "TAKEN", "LAG", "JOBS", "LABELS", "VERSION"]
    table = [
        [
            row["name"] + (" *" if row["name"] == document["instance"] else ""),
            condition(row),
            render.relative(row["heartbeat_at"], now),
            row["running"],
            row["capacity"],
            row["taken"],
            lag(row["lag_seconds"]),
            row["jobs"],
            " ".join(row["labels"]),
            row["version"],
        ]
        for row in rows
    ]
    render.table(header, table, [TONES.get(condition(row)) for row in rows])
    for line in remarks(rows):
        print(line)
    for row in rows:
        for run in row["runs"]:
            since = render.relative(run["started_at"], now) or "starting"
            print(f"  {row['name']}: run {run['run']} of {render.clean(run['job'])}, {since}")


TONES = {"dead": "bad", "draining": "warn", "drained": "warn"}


def condition(row: dict[str, Any]) -> str:
    """Return an instance's state in one word."""
    if not row["alive"]:
        return "dead"
    if row["draining"]:
        return "draining" if row["running"] else "drained"
    return "alive"


def lag(seconds: float | None) -> str:
    """Return a lag in milliseconds where it is short."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else render.seconds(seconds)


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what an operator should know of: definitions that differ, clocks that are wrong, dead instances."""
    lines = []
    for row in rows:
        if row["differs"]:
            jobs = [render.clean(job) for job in row["differs"]]
            more = f" and {len(jobs) - 5} more" if len(jobs) > 5 else ""
            lines.append(f"  {row['name']} defines otherwise than most: {', '.join(jobs[:5])}{more}")
        if row["alive"] and abs(row["clock_skew_seconds"]) > 1:
            way = "ahead of" if row["clock_skew_seconds"] > 0 else "behind"
            amount = render.seconds(abs(row["clock_skew_seconds"]))
            lines.append(
                f"  {row['name']}: its clock is {amount} {way} the database's (check its time service)"
            )
        if not row["alive"]:
            lines.append(
                f"  {row['name']} gives no sign of life (gone for good: cluster remove {row['name']})"
            )
    return lines


def _drain(arguments: dict[str, Any], name: str | None) -> int:
    answer = _ask(arguments, "drain", instance=name, draining=not arguments["--undo"])
    name = answer["instance"]
    if arguments["--wait"] and answer["draining"]:
        left = _wait(arguments, name)
        answer["running"] = left
    if arguments["--json"]:
        render.print_json(answer)
    elif not answer["draining"]:
        print(f"{name} starts runs again")
    else:
        done = ", and all that it ran have ended" if arguments["--wait"] else "; what it runs goes on"
        print(f"{name} starts no more runs{done}")
    return EX_OK


def _wait(arguments: dict[str, Any], name: str) -> int:
    """Wait until *name* runs nothing any more (or is dead); return how many it still has."""
    while True:
        document = _ask(arguments, "cluster")
        [row] = [row for row in document["instances"] if row["name"] == name] or [None]
        if row is None or not row["alive"] or not row["running"]:
            return 0 if row is None else int(row["running"])
        time.sleep(LOOK_SECONDS)


def _remove(arguments: dict[str, Any], name: str | None) -> int:
    if name is None:
        raise UsageError("cluster remove: <instance> is missing")
    answer = _ask(arguments, "remove_instance", instance=name)
    if arguments["--json"]:
        render.print_json(answer)
    else:
        print(f"{name} is forgotten; its runs stay in the history")
    return EX_OK


# ── whom to ask ───────────────────────────────────────────────────────────────────────────────


def _ask(arguments: dict[str, Any], op: str, **args: Any) -> Any:
    try:
        with client_of(arguments) as client:
            return client.call(op, **args)
    except (NotRunning, Unreachable):
        import asyncio

        return asyncio.run(_ask_database(arguments, op, args))


async def _ask_database(arguments: dict[str, Any], op: str, args: dict[str, Any]) -> Any:
    from echosched.config.cluster import address
    from echosched.config.load import load
    from echosched.config.secrets import SecretResolver
    from echosched.operations.cluster import ClusterOperations, Membership, alone
    from echosched.store.postgres import PostgresStore

    config = load(paths=paths_of(arguments))
    if config.cluster is None:
        raise alone()
    store = PostgresStore(SecretResolver()(config.cluster.dsn), owner=config.cluster.instance)
    await store.open()
    try:
        membership = Membership(store, config.cluster.instance, address(config.cluster.dsn))
        return await getattr(ClusterOperations(membership), op)(**args)
    finally:
        await store.close()

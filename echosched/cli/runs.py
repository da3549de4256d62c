"""``run``, ``history``, ``output``, ``cancel``.

History and output are also there when no daemon runs: the store is then read as it lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from echosched.cli import render
from echosched.cli.session import client_of, count_of, paths_of, run_number, seconds_of
from echosched.clock import SystemClock, rfc3339
from echosched.errors import NotRunning, Unreachable, UsageError, no_such_job
from echosched.model import FAILURES, State

if TYPE_CHECKING:
    from echosched.config.paths import Paths

_PATIENCE_SECONDS, _LOOK_SECONDS, _ALONE_SECONDS = 90.0, 0.1, 3.0

T = TypeVar("T")


def run(arguments: dict[str, Any]) -> int:
    """Run a job now; with ``--wait`` show its output and answer for its outcome."""
    with client_of(arguments) as client:
        number = client.call("trigger", job=arguments["<job>"])["run"]
        if not arguments["--wait"]:
            if arguments["--json"]:
                render.print_json({"run": number})
            else:
                print(f"run {number} (echoschedd output {number} -f shows it)")
            return 0
        quiet = arguments["--json"]
        client.close()
        try:
            if not quiet:
                _show_stream(arguments, number, 1, onward=True)
            row = _through_changes(arguments, lambda: _wait(arguments, number))
        except KeyboardInterrupt:
            print(f"\nrun {number} goes on (echoschedd cancel {number} ends it)", file=sys.stderr)
            return 130
    if quiet:
        render.print_json(row)
    else:
        print(_outcome(row), file=sys.stderr)
    return 0 if row["state"] == State.SUCCEEDED else 1


def _wait(arguments: dict[str, Any], number: int) -> dict[str, Any]:
    with client_of(arguments, timeout=None) as client:
        row: dict[str, Any] = client.call("wait", run=number)
    return row


def _through_changes(arguments: dict[str, Any], step: Callable[[], T]) -> T:
    """Carry out *step*, again after each change of workers: the run outlives that, and so does who waits for it."""
    while True:
        try:
            return step()
        except (NotRunning, Unreachable):
            if not _answers_again(arguments):
                raise


def _answers_again(arguments: dict[str, Any]) -> bool:
    from echosched.daemon import lock

    pidfile = paths_of(arguments).pidfile
    alone_since = None  # a restart lets go of the lock for a moment
    for _ in range(int(_PATIENCE_SECONDS / _LOOK_SECONDS)):
        with contextlib.suppress(NotRunning, Unreachable), client_of(arguments, timeout=5.0) as client:
            client.call("running")
            return True
        if lock.is_held(pidfile):
            alone_since = None
        elif alone_since is None:
            alone_since = SystemClock().monotonic()
        elif SystemClock().monotonic() - alone_since > _ALONE_SECONDS:
            return False
        time.sleep(_LOOK_SECONDS)
    return False


def _show_stream(
    arguments: dict[str, Any], number: int, attempt: int | None, *, onward: bool = False
) -> None:
    last, offset = "", 0

    def follow() -> None:
        nonlocal last, attempt, offset
        onwards = onward or attempt is None
        with client_of(arguments) as client:
            for piece in client.stream(
                "follow_output", run=number, attempt=attempt, offset=offset, onward=onwards
            ):
                sys.stdout.write(piece["text"])
                sys.stdout.flush()
                last = piece["text"] or last
                attempt, offset = piece["attempt"], piece["next_offset"]
                if piece["done"]:
                    _tell_elsewhere(number, piece)

    _through_changes(arguments, follow)
    if last and not last.endswith("\n") and sys.stdout.isatty():
        print()  # what comes next must not stand behind the job's last words; a pipe gets the exact output


def _tell_elsewhere(number: int, piece: dict[str, Any]) -> None:
    if piece.get("elsewhere") is not None:
        where = render.clean(piece["elsewhere"])
        print(f"echoschedd: run {number}: ran on {where}, and its output lies there", file=sys.stderr)


def _outcome(row: dict[str, Any]) -> str:
    text = f"run {row['run']} of {row['job']}: {row['state']}"
    if row["duration_seconds"] is not None:
        text += f" in {render.seconds(row['duration_seconds'])}"
    if row["error"]:
        text += f": {render.clean(row['error'])}"
    return render.paint(text, render.STATE_TONES.get(row["state"]))


def history(arguments: dict[str, Any]) -> int:
    """Show what ran and how it ended, newest first."""
    states = arguments["--state"].split(",") if arguments["--state"] else []
    for state in states:
        if state not in tuple(State):
            raise UsageError(f"--state {state}: unknown (one of {', '.join(State)})")
    if arguments["--failed"]:
        states += [str(state) for state in FAILURES]
    since = arguments["--since"]
    if since is not None:
        since = _since(since)
    query = {
        "job": arguments["<job>"],
        "n": count_of("-n", arguments["-n"], least=1),
        "states": states,
        "since": since,
    }
    try:
        with client_of(arguments) as client:
            rows = client.call("history", **query)
    except NotRunning:
        rows = asyncio.run(_stored_history(paths_of(arguments), query))
    if arguments["--json"]:
        render.print_json(rows)
        return 0
    if not rows:
        print("no runs" + (" match" if states or since or query["job"] else " yet"))
        return 0
    now = SystemClock().now()
    # An instance's name has no colon; the owner on one machine alone is host:pid, which tells nobody anything.
    shared = any(row["owner"] and ":" not in row["owner"] for row in rows)
    lines = [
        [
            row["run"],
            row["job"],
            row["state"],
            render.instant(row["slot"]) or row["trigger"],
            render.relative(row["ended_at"] or row["started_at"] or row["queued_at"], now),
            render.seconds(row["duration_seconds"]),
            "" if row["exit_code"] is None else row["exit_code"],
            *([row["owner"] or ""] if shared else []),
            row["error"] or "",
        ]
        for row in rows
    ]
    tones = [
        render.STATE_TONES.get(row["state"]) if row["state"] != State.SUCCEEDED else None for row in rows
    ]
    header = ["RUN", "JOB", "STATE", "SLOT", "WHEN", "TOOK", "EXIT", *(["ON"] if shared else []), "ERROR"]
    render.table(header, lines, tones)
    return 0


def _since(text: str) -> str:
    from echosched.cli.slots import instant_of

    if text[:4].isdigit() and "-" in text:
        return rfc3339(instant_of("--since", text))
    age = timedelta(seconds=seconds_of("--since", text))
    return rfc3339(SystemClock().now() - age)


async def _stored_history(paths: Paths, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that lie in the store, which no daemon has open."""
    from echosched.operations.stored import StoredReads

    async def ask(op: str, **args: Any) -> Any:
        if op != "job":
            raise NotRunning(f"{op}: no daemon runs")
        _must_be_configured(paths, args["job"])

    return await StoredReads(paths.db, ask, dsn=_shared_dsn(paths)).history(**query)


def _shared_dsn(paths: Paths) -> str | None:
    """Return where many hosts keep their runs, if this one is of many."""
    from echosched.config.load import load
    from echosched.errors import ConfigError

    try:
        cluster = load(paths=paths).cluster
    except ConfigError:
        return None
    return None if cluster is None else cluster.dsn


def _must_be_configured(paths: Paths, job: str) -> None:
    """Raise ``NotFound`` for a *job* that is in no configuration; one that cannot be read proves nothing."""
    from echosched.config.load import load
    from echosched.errors import ConfigError

    try:
        names = load(paths=paths).jobs
    except ConfigError:
        return
    if job not in names:
        raise no_such_job(job, names)


def output(arguments: dict[str, Any]) -> int:
    """Show what a run printed."""
    number = run_number(arguments["<run>"])
    attempt = None if arguments["--attempt"] is None else count_of("--attempt", arguments["--attempt"])
    try:
        with client_of(arguments) as client:
            if arguments["--follow"]:
                client.call("running")  # of a daemon that is not there the store is read as it lies
                client.close()
                _show_stream(arguments, number, attempt)
            else:
                _show_pieces(lambda query: client.call("output", **query), number, attempt)
    except NotRunning:
        from echosched.operations.offline import Records

        records = Records(paths_of(arguments))
        _show_pieces(lambda query: asyncio.run(records.call("output", query)), number, attempt)
    return 0


def _show_pieces(read: Callable[[dict[str, Any]], dict[str, Any]], number: int, attempt: int | None) -> None:
    offset = 0
    while True:
        piece = read({"run": number, "attempt": attempt, "offset": offset, "limit": 1 << 20})
        sys.stdout.write(piece["text"])
        if piece["done"] or piece["next_offset"] == offset:
            _tell_elsewhere(number, piece)
            return
        offset = piece["next_offset"]


def cancel(arguments: dict[str, Any]) -> int:
    """End a run."""
    number = run_number(arguments["<run>"])
    with client_of(arguments) as client:
        answer = client.call("cancel", run=number)
    print(f"run {number} of {answer['job']} is being cancelled")
    return 0

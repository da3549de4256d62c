"""``explain`` and ``simulate``: questions about schedules that need no daemon."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from echosched.cli import render
from echosched.cli.session import paths_of
from echosched.cli.slots import dst_of, instant_of, show_slots, slot_rows
from echosched.clock import SystemClock, rfc3339
from echosched.errors import no_such_job
from echosched.model import AfterWhen

if TYPE_CHECKING:
    from echosched.model import After

YEAR = timedelta(days=366)


def explain(arguments: dict[str, Any]) -> int:
    """Say what a schedule means, with its next slots and the daylight-saving changes it meets."""
    from echosched.schedule import explain as in_english
    from echosched.schedule import parse_after, parse_schedule, transitions

    expression, timezone = arguments["<expression>"], arguments["--timezone"]
    if (chain := parse_after(expression)) is not None:
        return _explain_chain(chain, arguments)
    schedule = parse_schedule(expression, timezone, dst=dst_of(arguments["--dst"]))
    now = SystemClock().now()
    document = {
        "schedule": expression,
        "timezone": schedule.timezone,
        "explanation": in_english(schedule),
        "next": slot_rows(schedule, now, 5),
        "transitions": [
            {"kind": t.kind, "at": rfc3339(t.at), "local": t.local.isoformat()}
            for t in transitions(schedule, now, now + YEAR)
        ],
    }
    if arguments["--json"]:
        render.print_json(document)
        return 0
    print(document["explanation"])
    for row in document["next"]:
        print(f"  {render.instant(row['at'])}  {row['local']}  {render.relative(row['at'], now)}")
    if not document["next"]:
        print("  no coming slot" if not schedule.on_start else "  when the daemon starts")
    for change in document["transitions"]:
        kind = "is skipped" if change["kind"] == "gap" else "is repeated"
        print(f"daylight saving: {change['local']} {kind} (at {render.instant(change['at'])})")
    return 0


def _explain_chain(chain: After, arguments: dict[str, Any]) -> int:
    """Say which runs of another job the expression waits for; it has no slots of its own."""
    outcome = {AfterWhen.SUCCESS: " that succeeds", AfterWhen.FAILURE: " that fails", AfterWhen.ANY: ""}
    said = f"After each run of {chain.job}{outcome[chain.when]}."
    if arguments["--json"]:
        document = {
            "schedule": arguments["<expression>"],
            "timezone": arguments["--timezone"],
            "explanation": said,
        }
        render.print_json({**document, "next": [], "transitions": []})
    else:
        print(render.clean(said))
    return 0


def simulate(arguments: dict[str, Any]) -> int:
    """Show every slot of a period, from the configuration alone."""
    from echosched.config.load import load
    from echosched.operations import simulate as slots_of

    config = load(paths=paths_of(arguments))
    wanted = arguments["<job>"]
    if wanted is not None and wanted not in config.jobs:
        raise no_such_job(wanted, config.jobs)
    jobs = [job for job in config.jobs.values() if wanted in (None, job.name)]
    start, end = instant_of("--from", arguments["--from"]), instant_of("--to", arguments["--to"])
    show_slots(slots_of([(job, job.schedule) for job in jobs], start, end), arguments, distance=False)
    return 0

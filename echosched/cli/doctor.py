"""``doctor``: what this host allows, tried out rather than guessed; each finding with a cure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from echosched.cli import render
from echosched.cli.findings import BAD, OK, Finding, bad
from echosched.cli.session import paths_of
from echosched.errors import EX_ERROR, EX_OK, EchoschedError

if TYPE_CHECKING:
    from echosched.config.paths import Paths
    from echosched.config.settings import Config

TONES = {"ok": "good", "warn": "warn", "bad": "bad"}


def doctor(arguments: dict[str, Any]) -> int:
    """Examine host, files and daemon; 1 if anything is bad."""
    findings = examine(paths_of(arguments))
    shown = []
    for finding in findings:
        shown.append(finding)
        if not arguments["--json"]:
            _show(finding)
            sys.stdout.flush()  # some probes take half a second
    well = all(finding.state != BAD for finding in shown)
    if arguments["--json"]:
        render.print_json({"ok": well, "findings": [finding.as_dict() for finding in shown]})
    else:
        _sum_up(shown)
    return EX_OK if well else EX_ERROR


def examine(paths: Paths) -> Iterator[Finding]:
    """Yield every finding; a check that breaks is a finding too, and keeps no other from being made."""
    from echosched.cli import doctor_cluster, doctor_files, doctor_host

    config, problems = doctor_files.read_config(paths)
    checks: list[Callable[[Paths, Config | None], Iterator[Finding]]] = [
        *doctor_host.CHECKS,
        *doctor_files.CHECKS,
        *doctor_cluster.CHECKS,
    ]
    yield from problems
    for check in checks:
        try:
            yield from check(paths, config)
        except (OSError, ValueError, EchoschedError) as error:
            name = check.__name__.replace("_", " ")
            yield bad(name, f"could not be examined: {error}", "see whether this user may look there")


def _show(finding: Finding) -> None:
    mark = render.paint(f"{finding.state:<5}", TONES[finding.state])
    print(f"{mark}{finding.check:<15} {render.clean(finding.finding)}")
    if finding.cure:
        print(f"{'':<20} → {render.clean(finding.cure)}")


def _sum_up(findings: list[Finding]) -> None:
    count = {state: sum(finding.state == state for finding in findings) for state in TONES}
    if count[OK] == len(findings):
        print(render.paint("all is well", "good"))
    else:
        print(f"{count['ok']} ok, {count['warn']} to know of, {count['bad']} to cure")

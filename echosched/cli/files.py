"""``check`` and ``import-crontab``: the configuration's files, read."""

from __future__ import annotations

import sys
from typing import Any

from echosched.cli import render
from echosched.cli.session import paths_of
from echosched.errors import EX_CONFIG, EX_DATAERR, ConfigError, EchoschedError


def check(arguments: dict[str, Any]) -> int:
    """Validate the configuration and show everything that is wrong or doubtful."""
    from echosched.clock import SystemClock
    from echosched.config.daylight import daylight_warnings
    from echosched.config.load import load

    paths = paths_of(arguments)
    path = arguments["<file>"]
    try:
        config = load(path, paths=paths, drop_ins=path is None)
    except ConfigError as error:
        if arguments["--json"]:
            render.print_json({"ok": False, "problems": list(error.problems), "warnings": []})
        else:
            for problem in error.problems:
                print(f"echoschedd: {problem}", file=sys.stderr)
        return EX_CONFIG
    warnings = [*config.warnings, *daylight_warnings(config.jobs.values(), SystemClock().now())]
    if arguments["--json"]:
        render.print_json({"ok": True, "problems": [], "warnings": warnings, "jobs": sorted(config.jobs)})
        return 0
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    count = len(config.jobs)
    print(f"{path or paths.config}: good, {count} job{'' if count == 1 else 's'}")
    return 0


def import_crontab(arguments: dict[str, Any]) -> int:
    """Print a crontab as TOML; warnings go to stderr and into comments."""
    from echosched.config.crontab_import import import_crontab as convert

    name = arguments["<file>"]
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise EchoschedError(f"{name}: {error.strerror}") from None
    try:
        toml = convert(text, system=arguments["--system"], name="stdin" if name == "-" else name)
    except ConfigError as error:
        for problem in error.problems:
            print(f"echoschedd: {problem}", file=sys.stderr)
        return EX_DATAERR  # what was given is wrong, not how this program is configured
    for line in toml.splitlines():
        if not line.startswith("#"):
            break
        print(f"echoschedd: {line.lstrip('# ')}", file=sys.stderr)  # what means something else here
    print(toml, end="")
    return 0

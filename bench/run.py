"""Run every measuring script in turn and write docs/performance.md anew.

    python bench/run.py [--only NAME,…] [--page-only]

A missed target does not end the run; the exit code tells whether every script could be carried out. What the
scripts leave on the disk goes at the very end: see ``common.workshop`` for why not before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import plots

PAGE = common.ROOT / "docs" / "performance.md"
NOTES = common.ROOT / "bench" / "notes.md"
SCRIPTS = [
    "next_fire",
    "commands",
    "lag",
    "burst",
    "peers",
    "throughput",
    "load",
    "idle",
    "history",
    "prune",
    "week",
]


def table(result: dict[str, Any]) -> list[str]:
    lines = ["| what | measured | target | |", "|---|---|---|---|"]
    for row in result["rows"]:
        limit = "" if row["limit"] is None else f"≤ {row['limit']:g} {row['unit']}"
        verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]
        lines.append(f"| {row['target']} | {row['measured']:.3g} {row['unit']} | {limit} | {verdict} |")
    return lines


def next_fire_rows(result: dict[str, Any]) -> dict[str, Any]:
    limits = {"next_ratio": 0.2, "successive_ratio": 0.2, "parse_and_first_ratio": 0.8}
    names = {
        "next_ratio": "next slot from anywhere ÷ cronsim",
        "successive_ratio": "one slot after another ÷ cronsim",
        "parse_and_first_ratio": "parsing and first slot ÷ cronsim",
    }
    return {"rows": [common.row(names[key], result[key], limit, "×") for key, limit in limits.items()]}


def page() -> str:
    lines = ["# Performance", ""]
    lines += [
        "Written by `bench/run.py`: what the scripts measured on the machine below, each against its reference in",
        "the same run. `make bench` measures again; every figure's script can be run alone.",
        "",
    ]
    machine: dict[str, str] | None = None
    body: list[str] = []
    for name in SCRIPTS:
        path = common.RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        machine = result.get("machine", machine)
        if name == "next_fire":
            result |= next_fire_rows(result)
        text = (common.ROOT / "bench" / f"{name}.py").read_text()
        title = text.split('"""')[1].split("\n")[0]
        load = result.get("load")
        heard = f" · {result['at']}" if "at" in result else ""
        heard += f" · load before {load[0]:.1f}, after {load[1]:.1f}" if load else ""
        body += [f"## {title}", "", f"`python bench/{name}.py`{heard}", "", *table(result), ""]
        body += [line for plot in plots.of(name, result) for line in (plot, "")]
    if machine is not None:
        lines += [
            "| machine | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in machine.items()),
            "",
        ]
    lines += body
    if NOTES.exists():
        lines += [NOTES.read_text().rstrip(), ""]
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--only", help="names of scripts, separated by commas")
    options.add_argument("--page-only", action="store_true", help="measure nothing, only write the page")
    chosen = options.parse_args()
    broken = []
    place = tempfile.mkdtemp(prefix="echosched-bench-", dir="/var/tmp")
    environment = os.environ | {"ECHOSCHED_BENCH_DIR": place}
    try:
        for name in (chosen.only.split(",") if chosen.only else SCRIPTS) if not chosen.page_only else []:
            print(f"── {name}", flush=True)
            words = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
            begun = time.monotonic()
            if subprocess.run(words, env=environment, check=False).returncode > 1:
                broken.append(name)
            print(f"   ({time.monotonic() - begun:.0f} s)", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    PAGE.write_text(page())
    print(f"wrote {PAGE}" + (f"; could not be carried out: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

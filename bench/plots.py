"""Pictures for docs/performance.md, drawn from the results; without matplotlib there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common

IMAGES = common.ROOT / "docs" / "img"
OURS, OTHERS = "#c2410c", "#64748b"


def of(name: str, result: dict[str, Any]) -> list[str]:
    """Draw what there is to draw of the results of script *name*; return the lines that show it."""
    draw = {"peers": _peers, "throughput": _throughput, "week": _week}.get(name)
    if draw is None:
        return []
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "echosched",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    IMAGES.mkdir(exist_ok=True)
    return [f"![{title}](img/{path.name})" for title, path in draw(result)]


def _save(figure: Any, name: str) -> Path:
    path = IMAGES / f"bench-{name}.svg"
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    return path


def _peers(result: dict[str, Any]) -> list[tuple[str, Path]]:
    from matplotlib.figure import Figure

    complete = {n: began for n, began in result["bursts"].items() if len(began) == result["jobs"]}
    figure = Figure(figsize=(7.5, 3.6))
    axes = figure.add_subplot()
    for name, began in complete.items():
        ours = name == "echosched"
        axes.plot(
            began, range(1, len(began) + 1), label=name, lw=2.2 if ours else 1.1,
            color=OURS if ours else None, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xlabel="seconds after the slot", ylabel="jobs begun", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8)
    first = _save(figure, "burst")
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.add_subplot()
    names = list(result["lags"])
    axes.boxplot([[late * 1000 for late in result["lags"][n]] for n in names], vert=False, tick_labels=names)
    axes.set(xlabel="lag of one job a second, ms", xscale="log")
    return [
        (f"{result['jobs']} jobs due at one instant: how many have begun, by time", first),
        ("one job a second: how late it begins", _save(figure, "lag")),
    ]


def _throughput(result: dict[str, Any]) -> list[tuple[str, Path]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.4))
    axes = figure.add_subplot()
    axes.bar(range(1, len(result["last_starts_ms"]) + 1), result["last_starts_ms"], color=OURS)
    axes.set(xlabel="second", ylabel="slowest start, ms")
    return [("a thousand jobs every second: the slowest start of each second", _save(figure, "throughput"))]


def _week(result: dict[str, Any]) -> list[tuple[str, Path]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.2))
    axes = figure.add_subplot()
    axes.plot(range(1, len(result["memory_mb"]) + 1), result["memory_mb"], marker="o", color=OURS)
    axes.set(xlabel="simulated day", ylabel="memory, MB", ylim=(0, None))
    return [("memory after each simulated day", _save(figure, "week"))]

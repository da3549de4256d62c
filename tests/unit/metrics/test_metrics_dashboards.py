"""etc/alerts.yml and etc/grafana-dashboard.json ask only for series that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from echosched import events
from echosched.metrics import Metrics, render

ETC = Path(__file__).parents[3] / "etc"
AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
STATUS = {
    "running": True, "health": "ok", "version": "0.1", "restarts": 0, "last_activity": "2026-11-21T08:00:00Z",
    "started_at": "2026-11-21T07:00:00Z", "cpu_seconds": 1.0, "rss_bytes": 1, "runs": {"running": 0, "queued": 0},
    "jobs": {"total": 1}, "next": [{"job": "a", "at": "2026-11-21T09:00:00Z"}],
    "cluster": {"instances": [{"name": "a", "alive": True, "differs": [], "running": 0}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Return every series that /metrics can show, with its labels."""
    metrics = Metrics()
    run = {"ts": AT, "job": "a", "run": 1, "slot": AT, "attempt": 1, "trigger": "schedule"}
    metrics.emit(events.SlotClaimed(**run))
    metrics.emit(events.RunStart(**run))
    end = {"exit_code": 0, "signal": None, "duration_seconds": 1.0, "lag_seconds": 0.0}
    metrics.emit(events.RunEnd(**run, state="succeeded", **end))
    metrics.emit(events.NotifyFailed(ts=AT, target="t", reason="x"))
    metrics.store_latency(0.001)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render(metrics.snapshot(), STATUS)):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    alerts = [
        line.split("expr:", 1)[1].strip()
        for line in (ETC / "alerts.yml").read_text().splitlines()
        if "expr:" in line
    ]
    board = json.loads((ETC / "grafana-dashboard.json").read_text())
    return alerts + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_exists(series, expression):
    names = re.findall(r"\b(echosched_\w+)(?:\{([^}]*)\})?", expression)
    assert names
    for name, selector in names:
        assert name in series, name
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)) - {"instance"}
        assert asked <= series[name], (name, asked)
    for grouped in re.findall(r"(?:by|on)\s*\(([^)]*)\)", expression):
        labels = {label.strip() for label in grouped.split(",")} - {"instance"}
        assert labels <= set().union(*(series[name] for name, _ in names)), labels
    assert expression.count("(") == expression.count(")")


def test_no_label_is_called_as_prometheus_calls_its_own(series):
    assert not [name for name, labels in series.items() if labels & {"job", "instance"}]


def test_the_dashboards_panels_do_not_overlap():
    board = json.loads((ETC / "grafana-dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_alerts_are_yaml_that_prometheus_reads():
    yaml = pytest.importorskip("yaml")
    (group,) = yaml.safe_load((ETC / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 8
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))

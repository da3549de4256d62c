"""Metrics: each run counted once, bounded labels, and a text that Prometheus's own parser reads."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from echosched import events
from echosched.metrics import OTHER, Histogram, Metrics, render

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def run(job: str = "a", **given):
    return {"ts": AT, "job": job, "run": 1, "slot": AT, "attempt": 1, "trigger": "schedule", **given}


def end(job: str = "a", state: str = "succeeded", duration: float | None = 1.5) -> events.RunEnd:
    return events.RunEnd(
        **run(job), state=state, exit_code=0, signal=None, duration_seconds=duration, lag_seconds=0.001
    )


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


STATUS = {
    "running": True, "pid": 4, "health": "ok", "version": "0.1", "restarts": 2,
    "last_activity": "2026-11-21T08:00:00.500000Z", "started_at": "2026-11-21T07:00:00.000000Z",
    "cpu_seconds": 1.25, "rss_bytes": 30_000_000,
    "runs": {"running": 3, "queued": 1, "succeeded": 9}, "jobs": {"total": 5, "paused": 1},
    "next": [{"job": "a", "at": "2026-11-21T09:00:00.000000Z"}, {"job": "a", "at": "2026-11-21T10:00:00.000000Z"}],
}  # fmt: skip


def test_each_run_is_counted_once_whatever_events_it_makes():
    metrics = Metrics()
    metrics.emit(events.SlotClaimed(**run()))
    metrics.emit(events.RunStart(**run(ts=AT + timedelta(milliseconds=2))))
    metrics.emit(events.RunRetry(**run(), retry_at=AT, error="x"))
    metrics.emit(events.RunStart(**run(ts=AT + timedelta(seconds=20), attempt=2)))
    metrics.emit(end())
    metrics.emit(events.RunAbandoned(**run(), reason="x"))
    metrics.emit(end(state="abandoned", duration=None))
    metrics.emit(events.RunMissed(**run(), reason="x"))
    metrics.emit(events.RunSkipped(**run(), reason="x"))
    told = values(render(json.loads(json.dumps(metrics.snapshot())), STATUS))
    job = ("job_name", "a")
    for state in ("succeeded", "abandoned", "missed", "skipped"):
        assert told["echosched_runs_total", (job, ("state", state))] == 1
    assert told["echosched_slots_total", (job,)] == 3
    assert told["echosched_retries_total", (job,)] == 1
    assert told["echosched_missed_slots_total", ()] == 1
    assert told["echosched_lag_seconds_count", ()] == 1
    assert told["echosched_lag_seconds_bucket", (("le", "0.0025"),)] == 1
    assert told["echosched_lag_seconds_bucket", (("le", "0.001"),)] == 0
    assert told["echosched_run_duration_seconds_sum", (job,)] == 1.5
    assert told["echosched_last_success_timestamp_seconds", (job,)] == AT.timestamp()


def test_the_status_is_told():
    told = values(render(Metrics().snapshot(), STATUS))
    assert told["echosched_up", ()] == 1
    assert told["echosched_health", (("health", "ok"),)] == 1
    assert told["echosched_health", (("health", "stalled"),)] == 0
    assert told["echosched_worker_restarts_total", ()] == 2
    assert told["echosched_runs_running", ()] == 3
    assert told["echosched_runs_queued", ()] == 1
    assert told["echosched_jobs", (("condition", "paused"),)] == 1
    assert told["echosched_last_beat_timestamp_seconds", ()] == AT.timestamp() + 0.5
    assert told["echosched_next_slot_timestamp_seconds", (("job_name", "a"),)] == AT.timestamp() + 3600
    assert told["echosched_info", (("version", "0.1"),)] == 1


@pytest.mark.parametrize("snapshot", [None, {}])
def test_a_stopped_daemon_is_told_without_a_worker(snapshot):
    told = values(render(snapshot, {"running": False, "pid": None, "health": "stopped", "next": []}))
    assert told["echosched_up", ()] == 0
    assert told["echosched_health", (("health", "stopped"),)] == 1
    assert not [name for name, _ in told if name.startswith("echosched_runs")]


def test_labels_are_bounded():
    metrics = Metrics(max_jobs=10)
    for number in range(1000):
        metrics.emit(events.SlotClaimed(**run(f"job{number}")))
        metrics.emit(end(f"job{number}"))
    snapshot = metrics.snapshot()
    assert len(snapshot["runs"]) == len(snapshot["slots"]) == len(snapshot["durations"]) == 11
    assert snapshot["runs"][OTHER]["succeeded"] == 990
    assert len(snapshot["last_success"]) == 10


def test_no_error_output_or_command_gets_into_a_label():
    metrics = Metrics()
    metrics.emit(
        events.RunEnd(
            **run(),
            state="failed",
            exit_code=1,
            signal=None,
            duration_seconds=1,
            lag_seconds=0,
            error="s3cret --password x",
        )
    )
    metrics.emit(events.NotifyFailed(ts=AT, target="mail", reason="s3cret"))
    assert "s3cret" not in render(metrics.snapshot(), STATUS)


def test_hostile_job_names_are_escaped():
    metrics = Metrics()
    name = 'a"} 1\nechosched_up 7\\'
    metrics.emit(end(name))
    told = values(render(metrics.snapshot(), STATUS))
    assert told["echosched_runs_total", (("job_name", name), ("state", "succeeded"))] == 1
    assert told["echosched_up", ()] == 1


def test_the_store_and_noteworthy_events_are_told():
    metrics = Metrics()
    metrics.store_latency(0.0007)
    metrics.store_latency(9.0)
    metrics.emit(events.StoreDegraded(ts=AT, reason="disk full"))
    metrics.emit(events.JobParked(ts=AT, job="a", reason="x"))
    told = values(render(metrics.snapshot(), STATUS))
    assert told["echosched_store_write_seconds_count", ()] == 2
    assert told["echosched_store_write_seconds_bucket", (("le", "0.001"),)] == 1
    assert told["echosched_store_degraded", ()] == 1
    assert told["echosched_jobs_parked", ()] == 1
    assert told["echosched_events_total", (("event", "store_degraded"),)] == 1
    metrics.emit(events.StoreRecovered(ts=AT, written=3, lost=0, seconds=1.0))
    assert values(render(metrics.snapshot(), STATUS))["echosched_store_degraded", ()] == 0


def test_a_histogram_counts_on_and_between_its_bounds():
    histogram = Histogram((1.0, 2.0))
    for value in (-5.0, 0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.add(value)
    assert histogram.counts == [3, 2, 1]
    assert histogram.sum == 104.0


def test_counting_imports_no_client_library():
    code = "import sys; from echosched.metrics import Metrics; print('prometheus_client' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_the_text_passes_promtools_rules():
    """Counters end in _total, histograms are cumulative and end in +Inf; every family has help and type."""
    metrics = Metrics()
    metrics.emit(end())
    text = render(metrics.snapshot(), STATUS)
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram", "info"), family.name
        if family.type == "histogram":
            series = [s.value for s in family.samples if s.name.endswith("_bucket")]
            assert series == sorted(series)


def test_each_instance_of_a_cluster_is_told_and_a_host_alone_tells_of_none():
    row = {
        "name": "a", "alive": True, "draining": False, "running": 2, "capacity": 64, "taken": 90,
        "lag_seconds": 0.02, "clock_skew_seconds": -0.5, "differs": ["x", "y"],
    }  # fmt: skip
    dead = row | {"name": "b", "alive": False, "lag_seconds": None, "differs": []}
    told = values(render(None, STATUS | {"cluster": {"instances": [row, dead]}}))
    a, b = (("instance_name", "a"),), (("instance_name", "b"),)
    assert told["echosched_cluster_connected", ()] == 1
    assert told["echosched_instance_alive", a] == 1
    assert told["echosched_instance_alive", b] == 0
    assert told["echosched_instance_runs_taken_total", a] == 90
    assert told["echosched_instance_lag_seconds", a] == 0.02
    assert ("echosched_instance_lag_seconds", b) not in told
    assert told["echosched_instance_clock_skew_seconds", a] == -0.5
    assert told["echosched_instance_differing_jobs", a] == 2
    away = values(render(None, STATUS | {"cluster": {"instances": None, "error": "no answer"}}))
    assert away["echosched_cluster_connected", ()] == 0
    assert not [name for name, _ in values(render(None, STATUS)) if "instance" in name or "cluster" in name]

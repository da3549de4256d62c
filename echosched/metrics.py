"""Figures for Prometheus: counted in plain Python where the scheduler runs, rendered where the web is.

The worker imports no client library (84 ms, 14 MB): :class:`Metrics` is an event sink over dicts, and
its :meth:`~Metrics.snapshot` goes over the control socket as JSON. :func:`render` turns a snapshot and a
``status`` document into the text format with prometheus_client, in the web server's process.

Labels are bounded: at most ``max_jobs`` job names, all others are ``(other)``, and never a command, an
error or an output. A run is counted once, when it reaches its outcome.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from echosched import events
from echosched.clock import parse_rfc3339
from echosched.model import State

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from echosched.events import Event
    from echosched.protocols import Facts

_JOB = "job_name"  # "job" is what Prometheus itself calls the scrape; it would rename ours to exported_job
_INSTANCE = "instance_name"  # "instance" likewise
OTHER = "(other)"  # parentheses: no job can be called so

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
DURATION_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)


class Histogram:
    """Counts of values in fixed classes, with their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count *value*; what lies below zero (a clock set back) counts as zero."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def as_dict(self) -> Facts:
        """Return the JSON form: upper bounds, counts of each class (the last one unbounded), sum."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class Metrics:
    """An :class:`~echosched.protocols.EventSink` that counts, about a microsecond an event. For one thread."""

    def __init__(self, *, max_jobs: int = 200) -> None:
        self._max_jobs = max_jobs
        self._labels: dict[str, str] = {}
        self._slots: Counter[str] = Counter()
        self._runs: dict[str, Counter[str]] = {}
        self._retries: Counter[str] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._lag = Histogram(LAG_BUCKETS)
        self._store = Histogram(STORE_BUCKETS)
        self._last_success: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._degraded = False
        self._parked: set[str] = set()

    def emit(self, event: Event) -> None:
        """Count *event*."""
        handle = _HANDLERS.get(event.event)
        if handle is not None:
            handle(self, event)

    def store_latency(self, seconds: float) -> None:
        """Count one durable write of the store that took *seconds*."""
        self._store.add(seconds)

    def snapshot(self) -> Facts:
        """Return everything as one JSON-able document."""
        return {
            "slots": dict(self._slots),
            "runs": {job: dict(counts) for job, counts in self._runs.items()},
            "retries": dict(self._retries),
            "lag": self._lag.as_dict(),
            "durations": {job: histogram.as_dict() for job, histogram in self._durations.items()},
            "store": self._store.as_dict(),
            "last_success": dict(self._last_success),
            "counts": dict(self._counts),
            "degraded": self._degraded,
            "parked": len(self._parked),
        }

    def _label(self, job: str) -> str:
        label = self._labels.get(job)
        if label is None:
            # Not remembered beyond the limit: a hundred thousand names would be memory for nothing.
            if len(self._labels) >= self._max_jobs:
                return OTHER
            label = self._labels[job] = job
        return label

    def _outcome(self, job: str, state: str) -> str:
        label = self._label(job)
        counts = self._runs.get(label)
        if counts is None:
            counts = self._runs[label] = Counter()
        counts[state] += 1
        return label

    def _claimed(self, event: events.SlotClaimed) -> None:
        if event.slot is not None:
            self._slots[self._label(event.job)] += 1

    def _ended(self, event: events.RunEnd) -> None:
        label = self._outcome(event.job, event.state)
        if event.duration_seconds is not None:
            histogram = self._durations.get(label)
            if histogram is None:
                histogram = self._durations[label] = Histogram(DURATION_BUCKETS)
            histogram.add(event.duration_seconds)
        if event.state == State.SUCCEEDED and label is not OTHER:
            self._last_success[label] = event.ts.timestamp()

    def _started(self, event: events.RunStart) -> None:
        # Lag is the first attempt's: a retry is late because it failed before, not because of us.
        if event.slot is not None and event.attempt == 1 and event.trigger == "schedule":
            self._lag.add((event.ts - event.slot).total_seconds())

    def _passed_over(self, event: events.RunMissed | events.RunSkipped) -> None:
        label = self._outcome(event.job, State.MISSED if event.event == "run_missed" else State.SKIPPED)
        if event.slot is not None:
            self._slots[label] += 1

    def _retried(self, event: events.RunRetry) -> None:
        self._retries[self._label(event.job)] += 1

    def _counted(self, event: Event) -> None:
        self._counts[event.event] += 1

    def _store_state(self, event: Event) -> None:
        self._degraded = event.event == "store_degraded"
        self._counted(event)

    def _job_parked(self, event: events.JobParked) -> None:
        if len(self._parked) < 10_000:
            self._parked.add(event.job)

    def _reloaded(self, event: Event) -> None:
        self._parked.clear()  # whatever is still broken is parked, and told, again
        self._counted(event)


_HANDLERS: Mapping[str, Any] = {
    "slot_claimed": Metrics._claimed,
    "run_start": Metrics._started,
    "run_end": Metrics._ended,
    "run_missed": Metrics._passed_over,
    "run_skipped": Metrics._passed_over,
    "run_retry": Metrics._retried,
    "job_parked": Metrics._job_parked,
    "reload": Metrics._reloaded,
    "store_degraded": Metrics._store_state,
    "store_recovered": Metrics._store_state,
    **dict.fromkeys(
        ("reload_failed", "clock_jump", "notify_failed", "sink_failed", "run_adopted"), Metrics._counted
    ),
}


# ── rendering ─────────────────────────────────────────────────────────────────────────────────


def render(snapshot: Mapping[str, Any] | None, status: Mapping[str, Any]) -> str:
    """Return Prometheus's text exposition of a :meth:`Metrics.snapshot` and a ``status --json`` document.

    Without a snapshot (no worker answers) what the status knows is still told. Needs the extra ``web``.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot or {}, status))
    return generate_latest(registry).decode()


class _Collector:
    """Yields metric families from two documents; prometheus_client asks it once for each rendering."""

    def __init__(self, snapshot: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self._snapshot = snapshot
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._daemon()
        yield from self._load()
        yield from self._cluster()
        if self._snapshot:
            yield from self._runs()
            yield from self._inner()

    def _daemon(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        status = self._status
        running = status.get("running") is True
        yield GaugeMetricFamily("echosched_up", "1 while a daemon runs", value=float(running))
        health = GaugeMetricFamily("echosched_health", "1 at the present health", labels=["health"])
        for name in ("ok", "degraded", "stalled", "stopped"):
            health.add_metric([name], float(status.get("health") == name))
        yield health
        if status.get("version"):
            yield InfoMetricFamily("echosched", "The program", value={"version": str(status["version"])})
        if status.get("restarts") is not None:
            text = "Workers that were started again by this daemon"
            yield CounterMetricFamily("echosched_worker_restarts", text, value=float(status["restarts"]))
        for name, key, text in (
            ("echosched_last_beat_timestamp_seconds", "last_activity", "The scheduler loop's last beat"),
            ("echosched_start_timestamp_seconds", "started_at", "Start of the daemon"),
        ):
            if (at := _timestamp(status.get(key))) is not None:
                yield GaugeMetricFamily(name, text, value=at)
        if status.get("cpu_seconds") is not None:
            text = "CPU time of supervisor and worker"
            yield CounterMetricFamily("echosched_cpu_seconds", text, value=float(status["cpu_seconds"]))
        if status.get("rss_bytes") is not None:
            text = "Memory of supervisor and worker"
            yield GaugeMetricFamily("echosched_resident_memory_bytes", text, value=float(status["rss_bytes"]))

    def _load(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        runs, jobs = self._status.get("runs") or {}, self._status.get("jobs") or {}
        for state in ("running", "queued"):
            if state in runs:
                yield GaugeMetricFamily(
                    f"echosched_runs_{state}", f"Runs that are {state} now", value=float(runs[state])
                )
        if jobs:
            family = GaugeMetricFamily("echosched_jobs", "Jobs by condition", labels=["condition"])
            for condition, count in jobs.items():
                if isinstance(count, int):
                    family.add_metric([condition], float(count))
            yield family
        coming = GaugeMetricFamily("echosched_next_slot_timestamp_seconds", "Soonest slots", labels=[_JOB])
        soonest: dict[str, float] = {}
        for row in self._status.get("next") or ():
            at = _timestamp(row.get("at")) if isinstance(row, Mapping) else None
            if at is not None:
                soonest.setdefault(str(row.get("job")), at)
        for job, at in list(soonest.items())[:20]:
            coming.add_metric([job], at)
        if soonest:
            yield coming

    def _cluster(self) -> Iterator[Metric]:
        """Yield what the shared database says of each instance: the same from whichever of them is scraped."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        cluster = self._status.get("cluster")
        if not isinstance(cluster, Mapping):
            return
        rows = cluster.get("instances")
        text = "1 while the database that all hosts share answers"
        yield GaugeMetricFamily("echosched_cluster_connected", text, value=float(rows is not None))
        taken = CounterMetricFamily("echosched_instance_runs_taken", "Runs it took", labels=[_INSTANCE])
        families: list[tuple[Any, str]] = [
            (GaugeMetricFamily(f"echosched_instance_{name}", said, labels=[_INSTANCE]), key)
            for name, key, said in (
                ("alive", "alive", "1 while its heartbeat is younger than its lease"),
                ("draining", "draining", "1 while it starts no more runs"),
                ("runs_running", "running", "Runs that it has under way"),
                ("capacity", "capacity", "Runs that it may have under way"),
                ("lag_seconds", "lag_seconds", "Median of start after slot, of its latest runs"),
                ("clock_skew_seconds", "clock_skew_seconds", "How far its clock is ahead of the database's"),
                ("differing_jobs", "differs", "Jobs that it defines otherwise than most"),
            )
        ]
        families.append((taken, "taken"))
        for family, key in families:
            for row in rows or ():
                value = row.get(key)
                if value is not None:
                    family.add_metric([row["name"]], float(len(value) if key == "differs" else value))
            yield family

    def _runs(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        told = self._snapshot
        slots = CounterMetricFamily("echosched_slots", "Slots accounted for", labels=[_JOB])
        for job, count in told.get("slots", {}).items():
            slots.add_metric([job], count)
        yield slots
        runs = CounterMetricFamily("echosched_runs", "Runs by outcome", labels=[_JOB, "state"])
        for job, counts in told.get("runs", {}).items():
            for state, count in counts.items():
                runs.add_metric([job, state], count)
        yield runs
        missed = sum(counts.get("missed", 0) for counts in told.get("runs", {}).values())
        yield CounterMetricFamily("echosched_missed_slots", "Slots that nobody could run", value=missed)
        retries = CounterMetricFamily("echosched_retries", "Attempts after a failed one", labels=[_JOB])
        for job, count in told.get("retries", {}).items():
            retries.add_metric([job], count)
        yield retries
        last = GaugeMetricFamily(
            "echosched_last_success_timestamp_seconds", "End of the last run that succeeded", labels=[_JOB]
        )
        for job, at in told.get("last_success", {}).items():
            last.add_metric([job], at)
        yield last
        durations = HistogramMetricFamily("echosched_run_duration_seconds", "Start to end", labels=[_JOB])
        for job, histogram in told.get("durations", {}).items():
            durations.add_metric([job], _buckets(histogram), histogram["sum"])
        yield durations

    def _inner(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        told = self._snapshot
        for name, key, text in (
            ("echosched_lag_seconds", "lag", "Start after slot, of scheduled runs"),
            ("echosched_store_write_seconds", "store", "Durable writes of the store"),
        ):
            if key in told:
                yield HistogramMetricFamily(
                    name, text, buckets=_buckets(told[key]), sum_value=told[key]["sum"]
                )
        yield GaugeMetricFamily(
            "echosched_store_degraded", "1 while the store fails", value=float(bool(told.get("degraded")))
        )
        yield GaugeMetricFamily("echosched_jobs_parked", "Jobs set aside", value=float(told.get("parked", 0)))
        family = CounterMetricFamily(
            "echosched_events", "Noteworthy events since the worker's start", labels=["event"]
        )
        for event, count in told.get("counts", {}).items():
            family.add_metric([event], count)
        yield family


def _buckets(histogram: Mapping[str, Any]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*histogram["bounds"], None], histogram["counts"], strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else repr(float(bound)), float(total)))
    return buckets


def _timestamp(text: object) -> float | None:
    try:
        return parse_rfc3339(str(text)).timestamp()
    except ValueError:
        return None

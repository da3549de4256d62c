"""A reload is over for the service manager however it went, and its configuration is in force only if it went well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from echosched import events
from echosched.app.worker import Worker
from echosched.clock import SystemClock
from echosched.config.load import load
from echosched.config.paths import Paths, resolve_paths
from echosched.config.settings import Config
from echosched.errors import ConfigError, StoreError
from echosched.model import Job

TOML = """
[daemon]
grace = "{grace}s"

[job.one]
schedule = "0 3 * * *"
command = "true"
"""


class Line:
    """The worker's line to the supervisor: keeps what is said."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def reloading(self) -> None:
        self.said.append("reloading")

    def reloaded(self, settings: Mapping[str, Any] | None = None) -> None:
        self.said.append(settings)


class Part:
    """A part of the worker that a reload goes through."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.emitted: list[events.Event] = []

    def emit(self, event: events.Event) -> None:
        self.emitted.append(event)

    async def follow(self, config: Config) -> None:
        if self.failure is not None:
            raise self.failure

    async def apply(self, jobs: Mapping[str, Job], *, max_concurrent: int) -> events.Reload:
        if self.failure is not None:
            raise self.failure
        return events.Reload(
            ts=SystemClock().now(), added=(), removed=(), changed=tuple(jobs), jobs=len(jobs)
        )


class Bench:
    """A worker of which only the reload is put together."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "echosched.toml"
        self.write(5)
        self.paths: Paths = resolve_paths(home=str(directory), environ={})
        self.config = load(paths=self.paths)
        self.line, self.messages, self.scheduler = Line(), Part(), Part()
        self.worker: Any = Worker.__new__(Worker)
        self.worker.paths = self.paths
        self.worker.config = self.worker._first_config = self.config
        self.worker.link, self.worker.clock = self.line, SystemClock()
        self.worker.messages, self.worker.scheduler = self.messages, self.scheduler
        self.worker._reloading = asyncio.Lock()

    def write(self, grace: int) -> None:
        self.file.write_text(TOML.format(grace=grace))
        self.file.chmod(0o644)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_reload_puts_the_new_configuration_into_force(bench: Bench) -> None:
    bench.write(7)
    verdict = await bench.worker.reload()
    assert verdict["jobs"] == 1
    assert bench.worker.config.daemon.grace.total_seconds() == 7
    assert bench.line.said[0] == "reloading"
    assert bench.line.said[1]["grace"] == 7


async def test_a_reload_that_is_refused_is_over_and_told(bench: Bench) -> None:
    bench.file.write_text("[daemon]\ngrase = 7\n")
    with pytest.raises(ConfigError):
        await bench.worker.reload()
    assert bench.worker.config is bench.config
    assert bench.line.said == ["reloading", None]
    assert [type(event) for event in bench.scheduler.emitted] == [events.ReloadFailed]


@pytest.mark.parametrize("part", ["messages", "scheduler"])
async def test_a_reload_that_breaks_half_way_is_over_and_the_old_one_counts(bench: Bench, part: str) -> None:
    bench.write(7)
    getattr(bench, part).failure = StoreError("the disk is full")
    with pytest.raises(StoreError):
        await bench.worker.reload()
    assert bench.worker.config is bench.config
    assert bench.line.said == ["reloading", None]
    (told,) = bench.scheduler.emitted
    assert isinstance(told, events.ReloadFailed)
    assert "the disk is full" in told.problems[0]

    getattr(bench, part).failure = None
    await bench.worker.reload()  # the next one is not kept waiting
    assert bench.worker.config.daemon.grace.total_seconds() == 7
    assert bench.line.said[3]["grace"] == 7


@pytest.mark.parametrize(
    ("failure", "told"),
    [(StoreError("the disk is full"), "the disk is full"), (RuntimeError("odd"), "RuntimeError: odd")],
)
async def test_a_reload_by_signal_that_breaks_is_told_with_its_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture, failure: Exception, told: str
) -> None:
    bench.scheduler.failure = failure
    await bench.worker._reload_quietly()
    assert "reload failed" in caplog.text
    assert told in caplog.text
    assert [event.problems[0].endswith(told) for event in bench.scheduler.emitted] == [True]

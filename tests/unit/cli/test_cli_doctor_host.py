"""Findings about hosts that this machine is not."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from echosched.cli import doctor_host
from echosched.cli.findings import Finding
from echosched.config.load import load
from echosched.config.paths import Paths, resolve_paths
from echosched.daemon import probe
from echosched.executor import cgroup


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return resolve_paths(home=str(tmp_path), environ={})


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


class Stopped:
    """A clock that shows one instant."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def test_a_network_filesystem_is_bad_for_the_database(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "filesystem", lambda path: "nfs4")
    finding = only(doctor_host.locks(paths, None))
    assert finding.state == "bad"
    assert finding.cure is not None
    assert "--db" in finding.cure


def test_locks_that_exclude_nobody_are_bad(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "lock_excludes", lambda directory: False)
    assert only(doctor_host.locks(paths, None)).state == "bad"


def test_a_clock_from_before_the_program_is_bad(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_host, "SystemClock", lambda: Stopped(datetime(1970, 1, 1, tzinfo=UTC)))
    assert next(doctor_host.clocks(paths, None)).state == "bad"


@pytest.mark.parametrize(
    ("discipline", "state"),
    [(probe.Discipline(True, 0.002), "ok"), (probe.Discipline(False, 16.0), "warn"), (None, "warn")],
)
def test_a_clock_that_nobody_keeps_right_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, discipline: probe.Discipline | None, state: str
) -> None:
    monkeypatch.setattr(probe, "discipline", lambda: discipline)
    assert only(doctor_host.clocks(paths, None)).state == state


@pytest.mark.parametrize(
    ("source", "version", "state"),
    [
        ("/usr/share/zoneinfo", "2026a", "ok"),
        ("/usr/share/zoneinfo", "2025b", "ok"),
        ("/usr/share/zoneinfo", "2023c", "warn"),
        ("/usr/share/zoneinfo", None, "warn"),
        (None, None, "bad"),
    ],
)
def test_old_and_missing_zone_data_are_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, source: str | None, version: str | None, state: str
) -> None:
    monkeypatch.setattr(doctor_host, "SystemClock", lambda: Stopped(datetime(2026, 12, 1, tzinfo=UTC)))
    monkeypatch.setattr(doctor_host, "zone_data", lambda: (source, version))
    assert only(doctor_host.zones(paths, None)).state == state


def test_the_version_of_zone_data_is_read_where_distributions_put_it(tmp_path: Path) -> None:
    assert doctor_host._zone_version(str(tmp_path)) is None
    (tmp_path / "+VERSION").write_text("2024b\n")
    assert doctor_host._zone_version(str(tmp_path)) == "2024b"
    (tmp_path / "tzdata.zi").write_text("# version 2025c\n# more\n")
    assert doctor_host._zone_version(str(tmp_path)) == "2025c"


def test_few_processes_are_bad(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(doctor_host, "_pids_max", lambda: 100)
    findings = list(doctor_host.limits(paths, None))
    assert [(f.check, f.state) for f in findings] == [("descriptors", "ok"), ("processes", "bad")]
    assert "pids.max" in findings[1].finding


def test_missing_kernel_features_name_what_is_done_instead(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "timerfd",
        "pidfd",
        "pidfd_tells_exit",
        "subreaper",
        "parent_death_signal",
        "processes_visible",
    ):
        monkeypatch.setattr(probe, name, lambda *_: False)
    monkeypatch.setattr(cgroup, "cgroup2", lambda: (True, "/sys/fs/cgroup/mine"))
    findings = list(doctor_host.kernel(paths, None))
    assert [f.state for f in findings] == ["warn"] * 6 + ["ok"]
    assert all(f.finding.startswith("missing: ") for f in findings[:6])


def test_a_killed_probe_means_that_detaching_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "detaching", lambda: probe.Detached(alive=False, parent=0, seconds=0.1))
    for name in ("REPL_ID", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    assert only(doctor_host.detaching(paths, None)).state == "bad"


@pytest.mark.parametrize(("installed", "state"), [(True, "ok"), (False, "bad")])
def test_an_extra_that_the_configuration_needs_is_looked_for(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, state: str
) -> None:
    file = tmp_path / "echosched.toml"
    file.write_text('[notify.a]\nkind = "apprise"\nurl = "json://127.0.0.1"\n[job.a]\ncommand = "true"\n')
    monkeypatch.setattr(doctor_host, "find_spec", lambda name: object() if installed else None)
    finding = only(doctor_host.extras(paths, load(paths=paths, environ={}, uid=1000)))
    assert finding.state == state
    assert "apprise" in finding.finding

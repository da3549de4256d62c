"""What holds for all tests: deep ones run when asked for, and in CI nothing is skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, programs

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
CI = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``deep`` unless ECHOSCHED_DEEP=1 asks for it."""
    if DEEP:
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI must have everything: a browser, a database, root."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="session")
def usual_umask() -> Iterator[None]:
    """Make files as people do, whoever started the tests: they compare modes, and let other accounts read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server that all tests of this run share; whoever stops it starts it again."""
    found = programs()
    if found is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="there is no psycopg: pip install 'echosched[cluster]'")
    server = PostgresServer(found)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """Return the address of a new, empty database, with password, over TCP."""
    with postgres.database() as name:
        yield postgres.dsn(name)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts something on a directory (takes root); all of it is gone afterwards."""
    points: list[Path] = []

    def mount(*arguments: str) -> Path:
        point = tmp_path / f"m{len(points)}"
        point.mkdir()
        done = subprocess.run(["mount", *arguments, str(point)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting does not work here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        while os.path.ismount(point):
            subprocess.run(["umount", "--lazy", str(point)], check=True)

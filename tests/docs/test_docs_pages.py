"""README.md and docs/*.md: every fenced command is run again and says what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from echosched.schedule import parse_schedule

sys.path.insert(0, str(Path(__file__).parent))

import pages

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"schedules.md"}  # compared to the letter, by tests/unit/schedule/test_schedule_docs.py
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name not in ELSEWHERE and pages.examples(page)
]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Not tmp_path: its name grows with the test's, and a socket's path has room for 107 bytes.
    directory = tmp_path_factory.mktemp("p")
    directory.chmod(0o750)
    return directory


@pytest.fixture
def shell(directory: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[pages.Shell]:
    """A shell in the page's directory, which is the daemon's home too; ``echoschedd`` is this checkout's.

    A page about many hosts gets the address of a database, as ``DATABASE_URL``.
    """
    for name, module in (("echoschedd", "echosched.cli"), ("python", ""), ("pytest", "pytest")):
        words = f"-m {module} " if module else ""
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        command.chmod(0o755)
    environ = {
        key: value
        for key, value in os.environ.items()
        if not re.match("ECHOSCHED_|REPL|NOTIFY_SOCKET|SUPERVISOR|DASHBOARD_KEY|PYTEST|INVOCATION_ID", key)
    }
    environ |= {
        "PATH": f"{tmp_path}/bin:{environ['PATH']}",
        "ECHOSCHED_HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "EXAMPLES": str(ROOT / "examples"),
        "LC_ALL": "C.UTF-8",
        "PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider",  # it warns where nothing configures it
    }
    page = request.node.callspec.params.get("page") if hasattr(request.node, "callspec") else None
    if page is not None and "DATABASE_URL" in page.read_text():
        environ["DATABASE_URL"] = request.getfixturevalue("database")
    shell = pages.Shell(directory, environ)
    yield shell
    shell.close()
    homes = [config.parent for config in directory.glob("*/echosched.toml")]  # of several hosts
    stops = [["stop", "--force", "--home", str(home)] for home in homes]
    for words in (*stops, ["service", "stop"], ["stop", "--force"]):
        command = [sys.executable, "-m", "echosched.cli", *words]
        subprocess.run(command, env=environ, timeout=240, check=False, stdout=subprocess.DEVNULL)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_true(page: Path, directory: Path, shell: pages.Shell) -> None:
    differences = list(pages.replay(page, directory, shell))
    assert not differences, "\n\n".join(differences)


def test_the_pages_for_newcomers_have_commands() -> None:
    names = {page.name for page in PAGES}
    for name in ("cron", "systemd-timers", "apscheduler", "supercronic"):
        assert f"coming-from-{name}.md" in names
    assert {"on-replit.md", "secrets.md"} <= names


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


# ── the comparison itself ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (["started (pid 12)"], ["started (pid 34567)"], True),
        (["stopped (pid 12)"], ["started (pid 12)"], False),
        (["next  2026-01-01 00:00:00Z (in 3m20s)"], ["next 2027-12-31 10:00:59Z  (in 12s)"], True),
        (["took 0.4 s"], ["took 1 m 05 s"], True),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a", "…", "z"], ["a", "z"], True),
        (["a", "…"], ["b"], False),
        (["echo: … (and more)"], ["echo: whatever it is (and more)"], True),
        (["failed: exit code 3"], ["failed"], False),
        ([], ["unexpected"], False),
        ([], [], True),
        (["failed: exit code 64"], ["failed: exit code 78"], False),
        (["64"], ["78"], False),
        (["run 1 of a"], ["run 2 of a"], False),
    ],
)
def test_what_may_differ(shown: list[str], said: list[str], same: bool) -> None:
    assert (pages.mismatch(shown, said) is None) == same


def test_a_page_is_read_in_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n```toml\n# echosched.toml\n[job.a]\n```\ntext\n```console\n$ echo one \\\n    two\none two\n"
        "$ for i in 1\n> do echo $i; done\n1\n```\n```text\n$ rm -rf /\n```\n```toml\n[job.b]\n```\n"
    )
    assert pages.read(page) == [
        pages.File(3, "echosched.toml", "# echosched.toml\n[job.a]\n"),
        pages.Example(8, "echo one \\\n    two", ["one two"]),
        pages.Example(11, "for i in 1\ndo echo $i; done", ["1"]),
    ]


@pytest.mark.parametrize(
    ("schedules", "at", "seconds"),
    [
        (["every 10s"], "07:58:07", 3.1),  # the slot that comes is let pass: nine seconds follow without one
        (["every 10s from 2026-01-01T00:00:06Z"], "07:58:07", 0.0),
        (["* * * * *", "0 8 * * *"], "07:58:07", 0.0),
        (["* * * * *", "0 8 * * *"], "07:59:47", 13.1),
        (["every 1s", "at 2026-01-01T08:00:00Z"], "07:59:59", 0.0),  # nothing to wait for that would help
    ],
)
def test_a_daemon_is_started_where_no_slot_is_near(schedules: list[str], at: str, seconds: float) -> None:
    wait = pages.until_quiet(
        [parse_schedule(text) for text in schedules], datetime.fromisoformat(f"2026-01-01T{at}Z")
    )
    assert wait.total_seconds() == seconds


def test_a_page_that_lies_is_caught(directory: Path, shell: pages.Shell) -> None:
    page = directory / "page.md"
    page.write_text("```console\n$ cd /\n$ pwd\n/\n$ false\n$ echo $?\n1\n$ echo yes\nno\n```\n")
    (difference,) = pages.replay(page, directory, shell)
    assert difference.startswith("page.md:8: $ echo yes")

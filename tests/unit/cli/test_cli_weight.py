"""What a command costs: ``status`` in a pipe and ``--version`` import next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {
    "aiohttp", "asyncio", "concurrent.futures", "ctypes", "daemon", "dataclasses", "docopt", "echosched.model", "email",
    "importlib.metadata", "inspect", "logging", "lockfile", "pathlib", "psutil", "random", "rich", "sqlite3",
    "subprocess", "tempfile", "typing", "zoneinfo",
}  # fmt: skip


def imported_by(*words: str) -> set[str]:
    code = (
        "import sys\nfrom echosched.cli import main\n"
        f"main({list(words)!r})\nprint('MODULES', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {[str(ROOT), *_sites()]!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MODULES" in done.stderr, done.stderr
    return set(done.stderr.partition("MODULES")[2].split())


def _sites() -> list[str]:
    # Without site (-S), whose .pth files import what they like: only this program's own imports count.
    return [path for path in sys.path if path.endswith("site-packages")]


def test_the_version_needs_nothing() -> None:
    ours = {name for name in imported_by("--version") if name.startswith("echosched")}
    assert ours == {"echosched", "echosched.cli", "echosched.version"}


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_status_in_a_pipe_imports_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    loaded = imported_by("status", "--home", str(tmp_path), *words)
    allowed = {"docopt"} | _below("docopt", tmp_path)
    assert loaded & HEAVY - allowed == set()
    assert "rich" not in loaded
    assert "echosched.cli.pretty" not in loaded


def _below(module: str, directory: Path) -> set[str]:
    """Return what importing *module*, which every command needs, brings along."""
    code = f"import sys; sys.path[:0] = {_sites()!r}; import {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd=directory
    )
    return set(done.stdout.split())

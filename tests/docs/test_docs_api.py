"""The API pages: built from the docstrings, with warnings as errors, as ``make docs`` does."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pdoc.doc
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "api"))

import make

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "docs" / "api" / "make.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = (tmp_path / "echosched.html").read_text()
    for name in ("Scheduler", "DaemonContext", "PIDFile", "Context", "parse_schedule"):
        assert f'id="{name}"' in page
    assert 'id="Scheduler.rehearse"' in page
    assert (tmp_path / "echosched" / "testing.html").exists()


def test_a_missing_docstring_and_a_lost_reference_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echosched_sample.py").write_text(
        '"""A sample."""\n\ndef silent() -> None: ...\n\n'
        'def telling() -> None:\n    """See :func:`silent` and :func:`nothing`."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = pdoc.doc.Module(importlib.import_module("echosched_sample"))
    assert sorted(make.undocumented(module)) == [
        "echosched_sample.silent: no docstring",
        "echosched_sample.telling: nothing names nothing",
    ]


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("Scheduler.run", True),
        ("echosched.testing.FakeClock", True),
        ("echosched.model.Run.state", True),
        ("echosched.testing.MemoryStore.fault", True),
        ("Scheduler.walk", False),
        ("echosched.nowhere.Thing", False),
    ],
)
def test_references_lead_somewhere(target: str, known: bool) -> None:
    assert make.resolves(target if target.startswith("echosched") else f"echosched.{target}") == known


def test_markup_left_in_the_text_is_found() -> None:
    assert list(make.leftovers("<p>see :meth:`x` and</p>"))
    assert not list(make.leftovers("<p>see <a>x</a>: at 08:00</p>"))

"""Where outputs lie, and what their files prove."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.app.outputs import Outputs
from echosched.errors import ExecutionError


def test_an_attempt_without_a_file_never_began_however_often_and_by_whom_it_is_asked(tmp_path: Path) -> None:
    earlier, later = Outputs(str(tmp_path)), Outputs(str(tmp_path))
    earlier.prepare(7, 1)
    for outputs in (earlier, earlier, later, later):
        assert not outputs.began(7, 1)


def test_an_attempt_that_made_its_file_began(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    Path(outputs.prepare(7, 1)).touch()
    assert outputs.began(7, 1)
    assert not outputs.began(7, 2)


def test_a_barred_attempt_can_be_prepared_again(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    outputs.prepare(7, 1)
    assert not outputs.began(7, 1)
    os.close(os.open(outputs.prepare(7, 1), os.O_CREAT | os.O_EXCL))
    assert outputs.began(7, 1)


def test_without_a_directory_nothing_began(tmp_path: Path) -> None:
    assert not Outputs(str(tmp_path)).began(7, 1)


def test_bars_count_as_traces_of_their_runs(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    outputs.prepare(1234, 1)
    assert not outputs.began(1234, 1)
    assert outputs.highest_run() == 1234


def test_answers_that_a_dead_worker_left_are_swept_and_no_others(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    outputs.sweep(frozenset(), datetime.now(UTC))  # nothing there yet
    for run in (6, 7, 8, 1001):
        path = Path(outputs.prepare(run, 1))
        path.write_text("output")
        Path(f"{path}.answer").write_text("{}")
    os.utime(f"{outputs.path(8, 1)}.answer", (2_000_000_000_000, 2_000_000_000_000))
    outputs.sweep(frozenset({7}), datetime.now(UTC) + timedelta(seconds=5))
    left = sorted(path.name for path in tmp_path.rglob("*.answer"))
    assert left == ["7.1.log.answer", "8.1.log.answer"]
    assert len(list(tmp_path.rglob("*.log"))) == 4


def _takes_the_flag(directory: Path) -> bool:
    """Tell whether the filesystem knows chattr's T (ext4 does)."""
    if shutil.which("chattr") is None:
        return False
    return subprocess.run(["chattr", "+T", str(directory)], capture_output=True).returncode == 0


def test_directories_of_outputs_lie_apart_and_obey_the_umask(tmp_path: Path) -> None:
    runs, other = tmp_path / "lib" / "runs", tmp_path / "other"
    other.mkdir()
    outputs = Outputs(str(runs))
    before = os.umask(0o027)
    try:
        for run in (7, 8, 1_234):
            Path(outputs.prepare(run, 1)).touch()
    finally:
        os.umask(before)
    assert sorted(path.name for path in runs.iterdir()) == ["000", "001"], "nothing half made is left"
    assert {path.stat().st_mode & 0o777 for path in runs.iterdir()} == {0o750}
    if _takes_the_flag(other):
        flags = subprocess.run(["lsattr", "-d", str(runs)], capture_output=True, text=True, check=True).stdout
        assert "T" in flags.split()[0]


def test_a_directory_that_another_worker_made_meanwhile_is_used(tmp_path: Path, monkeypatch: object) -> None:
    mine, theirs = Outputs(str(tmp_path)), Outputs(str(tmp_path))
    Path(theirs.prepare(7, 1)).write_text("theirs")
    real = os.path.isdir
    seen: list[str] = []

    def late(path: str) -> bool:
        seen.append(path)
        return len(seen) > 1 and real(path)  # it came between the look and the rename

    monkeypatch.setattr(os.path, "isdir", late)  # type: ignore[attr-defined]
    Path(mine.prepare(8, 1)).touch()
    assert sorted(path.name for path in (tmp_path / "000").iterdir()) == ["7.1.log", "8.1.log"]
    assert [path.name for path in tmp_path.iterdir()] == ["000"]


def test_the_directory_of_the_next_run_is_there_before_it(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path / "runs"))
    outputs.warm()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["000"]
    (tmp_path / "runs" / "017").mkdir()
    Outputs(str(tmp_path / "runs")).warm()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["000", "017"]


def test_when_half_of_a_directory_is_used_the_next_one_is_made_beside_the_loop(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    outputs.prepare(499, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["000"]
    for run in (503, 504, 505):
        outputs.prepare(run, 1)
    for thread in threading.enumerate():
        if thread.name == "outputs":
            thread.join(60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000", "001"]
    Path(outputs.prepare(1000, 1)).touch()
    Path(outputs.prepare(999, 2)).touch()


def test_a_directory_that_cannot_be_made_is_told_by_the_run_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    outputs = Outputs(str(tmp_path / "runs"))
    outputs.warm()
    with pytest.raises(ExecutionError, match="runs: File exists"):
        outputs.prepare(1, 1)


def test_a_run_needs_no_thread_for_the_directory_that_is_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outputs = Outputs(str(tmp_path))
    monkeypatch.setattr(threading.Thread, "start", start)
    Path(outputs.prepare(999, 1)).touch()
    Path(outputs.prepare(1000, 1)).touch()
    assert outputs.highest_run() == 1000

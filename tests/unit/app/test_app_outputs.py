"""Where outputs lie, and what their files prove."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from echosched.app.outputs import Outputs


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

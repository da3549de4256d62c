"""Outputs whose disk takes no file go elsewhere, are found there, and come home."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from echosched.app import spare
from echosched.app.outputs import Outputs
from echosched.app.spare import SpareOutputs
from echosched.errors import OutputUnavailable
from echosched.operations.pieces import find_output, output_file, spare_directories

LARGE = 5_000_000  # no test's run has that number by chance


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[str]:
    directory = tmp_path / "runs"
    directory.mkdir()
    yield str(directory)
    for each in spare_directories(str(directory)):
        if os.path.isdir(each):
            shutil.rmtree(each)


def test_a_spare_output_is_found_counted_and_brought_home(runs: str) -> None:
    outputs = Outputs(runs)
    path = outputs.spare.prepare(LARGE, 2)
    assert not path.startswith(runs)
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    Path(path).write_text("hello\n")
    Path(path + ".result").write_text("{}")
    assert outputs.path(LARGE, 2) == find_output(runs, LARGE, 2) == path
    assert outputs.began(LARGE, 2)
    assert outputs.highest_run() == LARGE
    outputs.spare.bring_home({LARGE})
    assert os.path.exists(path)  # it runs still
    outputs.spare.bring_home(set())
    home = output_file(runs, LARGE, 2)
    assert outputs.path(LARGE, 2) == home
    assert Path(home).read_text() == "hello\n"
    assert Path(home + ".result").read_text() == "{}"
    assert os.stat(home).st_mode & 0o777 == 0o640
    assert not os.path.exists(os.path.dirname(path))


def test_what_never_began_has_no_output_anywhere(runs: str) -> None:
    outputs = Outputs(runs)
    path = outputs.prepare(LARGE, 1)
    assert not outputs.began(LARGE, 1)
    assert outputs.path(LARGE, 1) == path


def test_it_fails_for_a_minute_and_then_what_is_elsewhere_may_come_home(
    runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = SpareOutputs(runs)
    assert not outputs.is_failing
    assert not outputs.may_come_home
    outputs.prepare(1, 1)
    assert outputs.is_failing
    assert not outputs.may_come_home
    monkeypatch.setattr(spare, "_FAILING_SECONDS", 0.0)
    assert not outputs.is_failing
    assert outputs.may_come_home


def test_the_oldest_of_too_many_spare_outputs_go(runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "_MOST_SPARE", 4)
    outputs = SpareOutputs(runs)
    for run in range(1, 6):
        path = outputs.prepare(run, 1)
        Path(path).touch()
        os.utime(path, (run, run))
    assert sorted(os.listdir(os.path.dirname(path))) == ["3.1.log", "4.1.log", "5.1.log"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away takes root")
def test_a_place_that_somebody_else_made_is_not_used(runs: str) -> None:
    first, second = spare_directories(runs)
    os.mkdir(first, 0o777)
    os.chown(first, 65534, 65534)
    Path(first, "7.1.log").write_text("a lie\n")
    assert find_output(runs, 7, 1) == output_file(runs, 7, 1)
    assert SpareOutputs(runs).highest_run() == 0
    assert SpareOutputs(runs).prepare(7, 1) == f"{second}/7.1.log"


def test_where_no_place_takes_an_output_the_reason_says_so(runs: str) -> None:
    for each in spare_directories(runs):
        Path(each).touch()
    try:
        with pytest.raises(OutputUnavailable, match="nor any other place"):
            SpareOutputs(runs).prepare(1, 1)
    finally:
        for each in spare_directories(runs):
            Path(each).unlink()

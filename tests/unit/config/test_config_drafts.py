"""A draft of one file is judged together with all the others, as they will be afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from echosched.config.load import load
from echosched.errors import ConfigError

JOB = '[job.{}]\nschedule = "@daily"\ncommand = "true"\n'


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "jobs.d" / "one.toml").write_text(JOB.format("one"))
    file = tmp_path / "echosched.toml"
    file.write_text('include = "more.toml"\n' + JOB.format("main"))
    (tmp_path / "more.toml").write_text(JOB.format("more"))
    return file


def jobs(main: Path, draft: Path, of: Path) -> list[str]:
    return sorted(load(str(main), draft=str(draft), draft_of=str(of), environ={}, uid=1000).jobs)


@pytest.mark.parametrize("name", ["jobs.d/one.toml", "jobs.d/new.toml", "more.toml"])
def test_a_draft_of_another_file_stands_in_for_it(main: Path, tmp_path: Path, name: str) -> None:
    draft = tmp_path / "draft"
    draft.write_text(JOB.format("drafted"))
    expected = {"main", "more", "one", "drafted"} - {Path(name).stem}
    assert jobs(main, draft, main.parent / name) == sorted(expected)


def test_a_draft_that_repeats_a_job_of_another_file_is_wrong(main: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.write_text(JOB.format("main"))
    with pytest.raises(ConfigError, match=r"jobs\.d/new\.toml: job\.main: is defined in echosched\.toml too"):
        jobs(main, draft, main.parent / "jobs.d" / "new.toml")


def test_a_first_drop_in_needs_no_directory_yet(tmp_path: Path) -> None:
    main, draft = tmp_path / "echosched.toml", tmp_path / "draft"
    main.write_text(JOB.format("main"))
    draft.write_text(JOB.format("first"))
    assert jobs(main, draft, tmp_path / "jobs.d" / "new.toml") == ["first", "main"]

"""Starting a process: what is made ready before stays so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echosched.executor import spawn
from echosched.executor.spawn import Launch, Spawner


def _started(spawner: Spawner, launch: Launch) -> str:
    pid = spawner.spawn(launch)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert launch.output is not None
    return Path(os.fsdecode(launch.output)).read_text()


def _launch(output: Path, umask: int | None) -> Launch:
    words = [b"sh", b"-c", b"umask; pwd"]
    return Launch(b"/bin/sh", words, [b"PATH=/bin"], output=os.fsencode(output), umask=umask)


def test_what_was_made_ready_is_not_made_again_also_with_a_umask_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = Spawner()
    other = spawner._inherited ^ 0o005
    for number in range(2):  # the first one's umask makes the thread's own what others inherit
        launch = _launch(tmp_path / str(number), other)
        spawner.make_ready(launch)
        with monkeypatch.context() as patch:
            patch.setattr(spawn, "_Call", None)
            assert _started(spawner, launch) == f"{other:04o}\n{Path.cwd()}\n"


def test_a_job_without_a_umask_starts_where_the_program_is_also_after_one_with_a_umask(
    tmp_path: Path,
) -> None:
    spawner = Spawner()
    _started(spawner, _launch(tmp_path / "first", spawner._inherited ^ 0o005))
    launch = _launch(tmp_path / "second", None)
    spawner.make_ready(launch)
    assert _started(spawner, launch) == f"{spawner._inherited:04o}\n{Path.cwd()}\n"

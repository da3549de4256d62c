"""Starting a process: what is made ready before stays so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from echosched.executor import spawn
from echosched.executor.spawn import Launch, Spawner


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, which a spawner takes for itself."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _started(spawner: Spawner, launch: Launch) -> str:
    pid = spawner.spawn(launch)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert launch.output is not None
    return Path(os.fsdecode(launch.output)).read_text()


def _launch(output: Path, umask: int | None) -> Launch:
    words = [b"sh", b"-c", b"umask; pwd"]
    return Launch(b"/bin/sh", words, [b"PATH=/bin"], output=os.fsencode(output), umask=umask)


def test_what_was_made_ready_is_not_made_again_also_with_a_umask_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: ThreadPoolExecutor
) -> None:
    spawner = thread.submit(Spawner).result()
    other = spawner._inherited ^ 0o005
    for number in range(2):  # the first one's umask makes the thread's own what others inherit
        launch = _launch(tmp_path / str(number), other)
        thread.submit(spawner.make_ready, launch).result()
        with monkeypatch.context() as patch:
            patch.setattr(spawn, "_Call", None)
            seen = thread.submit(_started, spawner, launch).result()
        assert seen == f"{other:04o}\n{Path.cwd()}\n"


def test_a_job_without_a_umask_starts_where_the_program_is_also_after_one_with_a_umask(
    tmp_path: Path, thread: ThreadPoolExecutor
) -> None:
    spawner = thread.submit(Spawner).result()
    first = _launch(tmp_path / "first", spawner._inherited ^ 0o005)
    thread.submit(_started, spawner, first).result()
    launch = _launch(tmp_path / "second", None)
    thread.submit(spawner.make_ready, launch).result()
    seen = thread.submit(_started, spawner, launch).result()
    assert seen == f"{spawner._inherited:04o}\n{Path.cwd()}\n"

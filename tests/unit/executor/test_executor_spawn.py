"""Starting a process: what is made ready before stays so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from echosched.executor import prepare, spawn
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


IN_AN_EMPTY_CHROOT = """
import os, sys
from echosched.executor import prepare
from echosched.executor.spawn import Launch, Spawner
spawner = Spawner()
os.chroot(sys.argv[1])
os.chdir("/")
for output in (b"/output", None):
    for account in (None, (0, 0, ())):
        launch = Launch(b"/bin/sh", [b"sh"], [b"PATH=/bin"], output=output, account=account)
        try:
            spawner.spawn(launch)
        except OSError as err:
            print(prepare.explain(err, launch))
        if os.path.exists("/output"):
            os.unlink("/output")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_chroot_without_dev_null_is_told_as_that(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", IN_AN_EMPTY_CHROOT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    reason = "/dev/null: No such file or directory (a job has it in place of input and output)\n"
    assert (said.stdout, said.stderr) == (4 * reason, "")


def test_what_the_system_says_of_dev_null_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "devnull", str(tmp_path))
    launch = Launch(b"/bin/sh", [b"sh"], [])
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert prepare.explain(refused, launch).startswith(f"{tmp_path}: Is a directory (")
    # A job that has both needs none.
    served = Launch(b"/bin/sh", [b"sh"], [], output=b"/etc/passwd", stdin=0)
    assert prepare.explain(refused, served) == "command not executable: sh (Permission denied)"

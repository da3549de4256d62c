"""The clean environment, env files and accounts."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path

import pytest

from echosched.errors import ExecutionError
from echosched.executor.environment import (
    Account,
    account_of,
    build_environment,
    own_account,
    read_env_file,
)
from echosched.executor.prepare import find_program, merge
from echosched.model import Attempt, CommandAction, Job, Process, Trigger

OWN = Account("me", "/home/me", "/bin/zsh")


def environment(process: Process = Process(), *, slot: datetime | None = None) -> dict[str, str]:  # noqa: B008
    job = Job("nightly", CommandAction("true"), timezone="Asia/Tokyo")
    attempt = Attempt(5, job, slot, 2, Trigger.SCHEDULE, None)
    return build_environment(
        attempt,
        process,
        OWN,
        {"PATH": "/bin", "LANG": "C.UTF-8"},
        "here",
        lambda t: t.replace("${env:X}", "secret"),
    )


def test_the_mark_stands_first_and_names_instance_and_attempt() -> None:
    assert next(iter(environment().items())) == ("ECHOSCHED_MARK", "here:5.2")


def test_a_manual_run_has_an_empty_slot() -> None:
    assert environment()["ECHOSCHED_SLOT"] == ""
    slot = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    assert environment(slot=slot)["ECHOSCHED_SLOT"] == "2026-03-04T05:06:00.000000Z"


def test_a_job_may_replace_what_is_given_but_not_what_identifies_it() -> None:
    env = (
        ("PATH", "/opt/bin"),
        ("TZ", "UTC"),
        ("HOME", "/x"),
        ("ECHOSCHED_MARK", "forged"),
        ("ECHOSCHED_RUN", "0"),
    )
    made = environment(Process(env=env))
    assert (made["PATH"], made["TZ"], made["HOME"]) == ("/opt/bin", "UTC", "/x")
    assert (made["ECHOSCHED_MARK"], made["ECHOSCHED_RUN"]) == ("here:5.2", "5")


def test_references_in_values_are_resolved() -> None:
    assert environment(Process(env=(("A", "a${env:X}z"),)))["A"] == "asecretz"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# only a comment\n\n", {}),
        ("A=1\nB = 2 \n", {"A": "1", "B": "2"}),
        ("export A=1\n", {"A": "1"}),
        ("A='x y'\nB=\"#1\"\nC='\n", {"A": "x y", "B": "#1", "C": "'"}),
        ("A=a=b\n", {"A": "a=b"}),
        ("A=\n", {"A": ""}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=$HOME\n", {"A": "$HOME"}),
    ],
)
def test_env_files_are_read_literally(tmp_path: Path, text: str, found: dict[str, str]) -> None:
    file = tmp_path / "env"
    file.write_text(text, newline="")
    assert read_env_file(str(file)) == found


@pytest.mark.parametrize("line", ["novalue", "1A=x", "A B=x", "=x", "rm -rf /"])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "env"
    file.write_text(f"OK=1\n{line}\n")
    with pytest.raises(ExecutionError, match="line 2: not of the form"):
        read_env_file(str(file))


def test_an_env_file_that_is_not_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"A=\xff\n")
    assert os.fsencode(read_env_file(str(file))["A"]) == b"\xff"


def test_a_directory_as_env_file_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="Is a directory"):
        read_env_file(str(tmp_path))


@pytest.mark.timeout(20)
def test_a_named_pipe_or_a_device_as_env_file_is_the_reason_at_once(tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        with pytest.raises(ExecutionError, match=f"^env_file {path}: not a regular file$"):
            read_env_file(path)


def test_without_user_the_account_is_the_daemon_s() -> None:
    assert account_of(Process(), OWN) is OWN


def test_the_daemon_s_own_user_by_name_or_number_needs_no_change() -> None:
    name = pwd.getpwuid(os.geteuid()).pw_name
    for user in (name, str(os.geteuid())):
        account = account_of(Process(user=user), own_account())
        assert (account.name, account.change) == (name, None)


def test_another_user_s_change_names_all_groups() -> None:
    if os.geteuid() != 0:
        with pytest.raises(ExecutionError, match="only a daemon that runs as root"):
            account_of(Process(user="nobody"), own_account())
        return
    entry = pwd.getpwnam("nobody")
    account = account_of(Process(user="nobody"), own_account())
    assert account.change == (entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist("nobody", entry.pw_gid)))


def test_defaults_fill_only_what_is_open() -> None:
    defaults = Process(cwd="/d", umask=0o22, nice=5, env=(("A", "1"),), limits=(("core", 0),))
    merged = merge(Process(umask=0, env=(("B", "2"),)), defaults)
    assert merged == Process(cwd="/d", umask=0, nice=5, env=(("A", "1"), ("B", "2")), limits=(("core", 0),))


def test_programs_are_looked_for_along_path(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    (tmp_path / "one" / "tool").write_text("not executable")
    (tmp_path / "two" / "tool").write_text("")
    (tmp_path / "two" / "tool").chmod(0o755)
    (tmp_path / "two" / "folder").mkdir()
    search = f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two"
    assert find_program("tool", search, None) == f"{tmp_path}/two/tool"
    assert find_program("./tool", search, None) == "./tool"
    assert find_program("tool", "two", str(tmp_path)) == f"{tmp_path}/two/tool"
    with pytest.raises(ExecutionError, match="not executable"):
        find_program("tool", f"{tmp_path}/one", None)
    for missing in ("folder", "", "x\0y"):
        with pytest.raises(ExecutionError, match="not found"):
            find_program(missing, search, None)

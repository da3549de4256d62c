"""Commands of people who may not read what the daemon keeps, and commands whose stdout takes nothing."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echosched.daemon import lock

from .conftest import CLI, House

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")
JOB = '[job.a]\nschedule = "@yearly"\ncommand = "true"\n'

# Everything is imported before: the account may not read where this interpreter keeps its library.
STRANGER = """
import os, sys, json, docopt, encodings.utf_8_sig
sys.path.insert(0, sys.argv[1])
import echosched.daemon.control, echosched.daemon.launcher, echosched.cli.lifecycle, echosched.cli.logs
import echosched.cli.service, echosched.cli.status, echosched.config.load, echosched.control.client, echosched.journal
import echosched.cli.files, echosched.clock, echosched.daemon.inspect, echosched.daemon.pidfile, lockfile, tomllib
from echosched.cli import main
os.setgroups([])
os.setresgid(int(sys.argv[3]), int(sys.argv[3]), int(sys.argv[3]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture
def open_house() -> Iterator[House]:
    """A home that everybody may search, as ``mkdir`` makes them."""
    directory = Path(tempfile.mkdtemp(prefix="h"))
    directory.chmod(0o755)
    house = House(directory)
    yield house
    house.close()
    shutil.rmtree(directory)


def run(house: House, line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run *line* in the house's environment, with stdin, stdout and the directory as a test wants them."""
    taken = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60} | options
    return subprocess.run(line, env=house.environ, check=False, **taken)


def as_nobody(house: House, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    account = pwd.getpwnam("nobody")
    package = str(Path(__file__).parents[2])
    start = [sys.executable, "-P", "-c", STRANGER, package, str(account.pw_uid), str(account.pw_gid)]
    return run(
        house, [*start, verb, "--home", str(house.directory), *words], stdin=subprocess.DEVNULL, cwd="/"
    )


@ROOT
def test_who_may_not_read_the_state_is_told_so_and_has_not_the_privilege_to_stop(open_house: House) -> None:
    open_house.write(JOB)
    open_house.ok("start")
    pid = open_house.pid
    state = open_house.directory / "echosched.state.json"
    seen = as_nobody(open_house, "status")
    assert (seen.returncode, seen.stderr) == (0, "")
    assert (
        seen.stdout
        == f"echoschedd is running (pid {pid}): {state} may not be read (ask as its user, or as root)\n"
    )
    line = as_nobody(open_house, "service", "status", "scheduler")
    assert (line.returncode, line.stdout) == (0, f"scheduler  running (pid {pid}), degraded\n")
    for verb in ("stop", "restart", "upgrade"):
        refused = as_nobody(open_house, verb)
        assert refused.returncode == 4, refused
        assert f"{state}: may not be read, so process {pid} cannot be identified" in refused.stderr
    refused = as_nobody(open_house, "logs")
    assert refused.returncode == 77
    assert "echosched.log: Permission denied" in refused.stderr
    assert open_house.status["pid"] == pid


@ROOT
def test_a_configuration_that_may_not_be_read_is_not_called_missing(open_house: House) -> None:
    open_house.write(JOB)
    open_house.directory.chmod(0o700)
    for verb, code in (("check", 78), ("start", 6)):
        refused = as_nobody(open_house, verb)
        assert refused.returncode == code
        assert "echosched.toml: may not be read (permission denied)" in refused.stderr
        assert "no such file" not in refused.stderr


def test_a_pidfile_that_nobody_holds_is_a_dead_daemons_whatever_is_in_it(house: House) -> None:
    pidfile = house.directory / "echosched.pid"
    for content in ("", "abc\n", "-1\n", "99999999999999999999\n", "1\n"):
        pidfile.write_text(content)
        seen = house.run("status")
        assert (seen.returncode, seen.stdout) == (
            1,
            f"echoschedd is not running: it died and left {pidfile}\n",
        )
        assert house.status["pid"] is None
    assert house.ok("stop") == "not running\n"
    assert house.run("status").returncode == 3


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_descriptors_were_closed_has_its_own_exit_code(house: House, closed: str) -> None:
    house.write(JOB)
    for verb, code in (("status", 3), ("check", 0), ("jobs", 0), ("stop", 0), ("--version", 0)):
        line = shlex.join([*CLI, verb, *(["--home", str(house.directory)] if verb[0] != "-" else [])])
        done = run(house, ["sh", "-c", f"{line} {closed}"])
        assert done.returncode == code, (verb, done)
        assert "error" not in done.stderr


def test_a_full_disk_under_stdout_is_one_line_and_no_bug(house: House) -> None:
    house.write(JOB)
    (house.directory / "echosched.log").write_text(
        '{"ts":"2026-01-01T00:00:00.000000Z","event":"ready"}\n' * 9
    )
    home = ["--home", str(house.directory)]
    for words in (
        ["--version"],
        ["status", *home],
        ["status", "--json", *home],
        ["logs", *home],
        ["logs", "--help"],
    ):
        with open("/dev/full", "w") as full:
            done = run(house, [*CLI, *words], stdout=full)
        assert (done.returncode, done.stderr) == (74, "echoschedd: stdout: No space left on device\n"), words


def test_the_one_who_stops_finds_a_daemon_that_has_not_written_its_state(house: House) -> None:
    """Not readable is not the same as not there: a starting daemon gets the time to write it."""
    pidfile = str(house.directory / "echosched.pid")
    descriptor = lock.take(pidfile)
    assert descriptor is not None
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            lock.write_pid(descriptor, innocent.pid)
            seen = house.run("status")
            assert (seen.returncode, seen.stdout) == (
                0,
                f"echoschedd is running (pid {innocent.pid}): it has not said anything of itself yet\n",
            )
            assert house.run("stop").returncode == 1
            assert innocent.poll() is None
        finally:
            os.close(descriptor)
            innocent.send_signal(signal.SIGKILL)


@ROOT
@pytest.mark.parametrize("words", [[], ["--foreground"], ["--no-supervise"]])
def test_a_home_that_the_daemons_user_cannot_write_to_keeps_no_pidfile(
    house: House, words: list[str]
) -> None:
    house.write('[daemon]\nuser = "nobody"\n' + JOB)
    refused = house.run("start", *words)
    assert refused.returncode == 4
    home = house.directory
    assert refused.stderr == f"echoschedd: {home}: not writable for nobody (chown nobody {home})\n"
    assert not (home / "echosched.pid").exists()
    assert house.run("status").returncode == 3


SERVER = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from echosched.control.server import ControlServer
from echosched.errors import EchoschedError
path, uid, gid, group = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])

async def listen():
    server = ControlServer(None, path, group=group)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    await server.start()
    print(oct(os.stat(path).st_mode & 0o777))
    await server.close()

try:
    asyncio.run(listen())
except EchoschedError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@ROOT
def test_a_control_group_that_the_daemons_user_is_not_in_is_named(open_house: House) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(open_house.directory, account.pw_uid, account.pw_gid)
    path = str(open_house.directory / "echosched.sock")

    def listen(group: int) -> tuple[int, str]:
        package = str(Path(__file__).parents[2])
        words = [package, path, str(account.pw_uid), str(account.pw_gid), str(group)]
        done = subprocess.run(
            [sys.executable, "-P", "-c", SERVER, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    assert listen(account.pw_gid) == (0, "0o660\n")
    assert listen(0) == (
        4,
        f"daemon.control_group: the socket's owner (user id {account.pw_uid}) is no member of group id 0, so {path}"
        " cannot be given to it (make it a member)\n",
    )


def test_a_socket_that_cannot_be_is_one_line_and_no_bug(house: House) -> None:
    house.write(JOB)
    taken = house.directory / "taken"
    taken.mkdir()
    refused = house.run("start", "--socket", str(taken))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"echoschedd: {taken}: cannot listen there: Is a directory (give another path with --socket)\n"
    )
    assert house.run("status").returncode == 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_stdout_has_no_letters_for_is_escaped(house: House, encoding: str) -> None:
    house.write('[job.a]\ndescription = "größe €"\nschedule = "@yearly"\ncommand = "echo grüße €"\n')
    house.environ["PYTHONIOENCODING"] = encoding
    house.ok("start")

    def said(*words: str) -> str:
        done = run(house, [*CLI, *words, "--home", str(house.directory)], encoding=encoding)
        assert done.returncode == 0, done
        return done.stdout

    shown = said("run", "a", "--wait").splitlines()[0]
    assert shown == "grüße €".encode(encoding, "backslashreplace").decode(encoding)
    assert json.loads(said("jobs", "--json"))[0]["description"] == "größe €"


def test_a_relative_home_in_a_directory_that_is_gone_is_told_in_one_line(house: House) -> None:
    gone = house.directory / "gone"
    gone.mkdir()
    line = shlex.join([*CLI, "status", "--home", "h"])
    done = run(house, ["sh", "-c", f"rmdir {gone}; exec {line}"], cwd=gone)
    assert (done.returncode, done.stderr) == (
        78,
        "echoschedd: home: h: relative, and the present directory is gone (give an absolute path)\n",
    )


def test_a_daemon_whose_socket_lies_elsewhere_is_seen_and_stopped_without_it(house: House) -> None:
    """Its home's name leaves no room for a socket: only who talks to it must say where that is."""
    deep = House(house.directory / ("x" * 100))
    deep.directory.mkdir()
    deep.write(JOB)
    socket = ["--socket", str(house.directory / "s")]
    assert deep.run("start").returncode == 6
    assert deep.run("status").returncode == 3
    try:
        deep.ok("start", *socket)
        assert deep.status["running"] is True
        assert "107" in deep.run("jobs").stderr
        assert json.loads(deep.ok("status", "--json", *socket))["health"] == "ok"
        assert deep.ok("stop").startswith("stopped")
    finally:
        deep.run("stop", "--force")

"""Files, links, rights and secrets of a whole daemon, as an attacker or an auditor would look at them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .conftest import House, eventually

JOBS = '[job.tock]\nschedule = "every 1s"\ncommand = "echo tock"\n'
SECRET = "s3cr3t-T0ken-31337"  # not a real one


@pytest.mark.parametrize(
    "name",
    ["echosched.pid", "echosched.log", "echosched.out", "echosched.beat", "echosched.db", "echosched.db.lock",
     "echosched.state.json"],
)  # fmt: skip
def test_no_file_of_the_daemon_is_written_through_a_link(house: House, tmp_path: Path, name: str) -> None:
    house.write(JOBS)
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    os.symlink(victim, house.directory / name)
    started = house.run("start")
    if started.returncode == 0:  # a file that is replaced whole takes the link's place
        eventually(lambda: house.history("tock", "--state", "succeeded"))
        house.ok("stop")
    else:
        assert name.removesuffix(".lock") in started.stderr, started.stderr
    assert victim.read_text() == "precious\n"


def test_an_output_is_never_written_through_a_link(house: House, tmp_path: Path) -> None:
    house.write('[job.one]\ncommand = "echo one"\n')
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    shard = house.directory / "runs" / "000"
    shard.mkdir(parents=True)
    os.symlink(victim, shard / "2.1.log")
    house.ok("start")
    for _ in range(3):
        house.run("run", "one", "--wait")
    assert victim.read_text() == "precious\n"
    assert house.history("one")[0]["state"] == "succeeded"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_modes_of_files_directories_and_socket_whatever_the_starters_umask(house: House, umask: int) -> None:
    house.write(JOBS)
    house.ok("start", umask=umask)
    eventually(lambda: house.history("tock", "--state", "succeeded"))
    wanted = {
        "echosched.pid": 0o644, "echosched.sock": 0o600, "echosched.db": 0o640, "echosched.log": 0o640,
        "echosched.out": 0o640, "echosched.beat": 0o640, "echosched.state.json": 0o640, "runs": 0o750,
    }  # fmt: skip
    found = {name: stat.S_IMODE((house.directory / name).stat().st_mode) for name in wanted}
    assert found == wanted
    for path in (house.directory / "runs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rule")
@pytest.mark.parametrize("place", ["echosched.toml", "jobs.d/more.toml", "jobs.d"])
def test_root_refuses_a_configuration_that_others_can_write(house: House, place: str) -> None:
    house.write(JOBS)
    house.write('[job.more]\nschedule = "@daily"\ncommand = "true"\n', "jobs.d/more.toml")
    (house.directory / place).chmod(0o777)
    refused = house.run("start")
    assert refused.returncode == 6, refused.stderr
    assert place in refused.stderr
    assert "writ" in refused.stderr
    assert house.run("status").returncode == 3


def test_a_secret_stands_in_no_file_and_no_listing(house: House) -> None:
    house.environ["VAULT_TOKEN"] = SECRET
    house.write(
        "[job.call]\ncommand = 'echo got ${env:VAULT_TOKEN}; exit 3'\nshell = '/bin/sh'\n"
        "env = { TOKEN = '${env:VAULT_TOKEN}' }\n"
        "[job.http]\n[job.http.http]\nurl = 'http://127.0.0.1:9/${env:VAULT_TOKEN}'\n"
        "[job.lost]\ncommand = '/nowhere/${env:VAULT_TOKEN}'\n"
    )
    house.ok("start", "--debug")
    for job in ("call", "http", "lost"):
        house.run("run", job, "--wait")
    run = str(house.history("call")[0]["run"])
    shown = ""
    for words in (
        ["status"],
        ["jobs"],
        ["history"],
        ["next"],
        ["logs"],
        ["logs", "--out"],
        ["check"],
        ["output", run],
    ):
        done = house.run(*words)
        shown += done.stdout + done.stderr
        if words[0] in ("status", "jobs", "history", "next"):
            shown += house.run(words[0], "--json", *words[1:]).stdout
    assert "got " in shown
    assert SECRET not in shown
    house.ok("stop")
    raw = Path(house.directory / "runs")
    for path in house.files():
        if raw in path.parents:
            continue  # what a job itself prints is its own; it is masked where it is shown
        assert SECRET.encode() not in path.read_bytes(), path


def test_strangers_are_turned_away_at_the_socket(house: House) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else takes root")
    house.write(JOBS)
    house.ok("start")
    for path in (house.directory, *house.directory.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    (house.directory / "echosched.sock").chmod(0o666)  # even then, the peer's credentials count
    code = (
        "import socket,sys;s=socket.socket(socket.AF_UNIX);s.settimeout(10);s.connect(sys.argv[1])\n"
        # The answer may come, and the connection end, before anything was asked.
        'try: s.sendall(b\'{"op": "trigger", "args": {"job": "tock"}}\\n\')\n'
        "except BrokenPipeError: pass\n"
        "print(s.recv(65536).decode())"
    )
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.dup2(writer, 1)
            os.execv("/usr/bin/python3", ["python3", "-c", code, str(house.directory / "echosched.sock")])
        finally:
            os._exit(9)
    os.close(writer)
    os.waitpid(pid, 0)
    answer = os.read(reader, 65536).decode()
    os.close(reader)
    assert answer, "not even an answer"
    assert "true" not in answer.partition(",")[0], answer
    assert all(row["trigger"] != "manual" for row in house.history("tock"))

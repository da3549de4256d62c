"""Secrets as a user meets them: they reach the job, and nobody else."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import House

FROM_FILE, FROM_SYSTEMD, FROM_ENVIRONMENT = "correct-horse", "battery-staple", "tr0ub4dor"


@pytest.fixture
def house_with_secrets(house: House) -> House:
    place = house.directory / "secret"
    place.mkdir()
    (place / "token").write_text(FROM_FILE + "\n")
    (place / "api-key").write_text(FROM_SYSTEMD)
    house.environ |= {"CREDENTIALS_DIRECTORY": str(place), "PASSPHRASE": FROM_ENVIRONMENT}
    return house


def test_every_kind_reaches_the_job_and_no_other_file(house_with_secrets: House) -> None:
    house = house_with_secrets
    house.write(f"""
    [job.all]
    command = "echo $A $B $C; cat; exit 3"
    stdin = "${{file:{house.directory}/secret/token}}"
    [job.all.env]
    A = "${{file:{house.directory}/secret/token}}"
    B = "${{credential:api-key}}"
    C = "${{env:PASSPHRASE}}"
    """)
    house.ok("check")
    house.ok("start")
    done = house.run("run", "all", "--wait")
    assert done.stdout == "[secret] [secret] [secret]\n[secret]"
    assert house.last("all")["exit_code"] == 3
    output = house.directory / "runs" / "000" / "1.1.log"
    assert output.read_text() == f"{FROM_FILE} {FROM_SYSTEMD} {FROM_ENVIRONMENT}\n{FROM_FILE}"
    for words in (["output", "1"], ["history"], ["jobs", "--json"], ["logs", "--json"], ["status", "--json"]):
        assert_silent(house.run(*words).stdout)
    house.ok("stop")
    for file in house.files():
        if file != output and file.parent.name != "secret":
            assert_silent(file.read_bytes().decode("utf-8", "replace"))


def assert_silent(text: str) -> None:
    for secret in (FROM_FILE, FROM_SYSTEMD, FROM_ENVIRONMENT):
        assert secret not in text


def test_a_secret_is_not_in_the_process_list_when_it_comes_by_the_environment(
    house_with_secrets: House,
) -> None:
    house = house_with_secrets
    house.write('[job.slow]\ncommand = "sleep 30; true"\nenv = { B = "${credential:api-key}" }\n')
    house.ok("start")
    house.ok("run", "slow")
    deadline = time.monotonic() + 60
    while not (started := house.events("run_start")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = started[0]["pid"]
    with open(f"/proc/{pid}/cmdline") as file:
        assert_silent(file.read())
    with open(f"/proc/{pid}/environ") as file:
        assert FROM_SYSTEMD in file.read()
    for process in (house.pid, house.worker_pid):  # the daemon's own: only what it was given
        with open(f"/proc/{process}/cmdline") as file:
            assert_silent(file.read())


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("${file:/no/such/file}", "No such file"),
        ("${credential:other}", "No such file"),
        ("${credential:../token}", "not the name of a credential"),
        ("${env:NO_SUCH_SECRET}", "not set in the daemon's environment"),
    ],
)
def test_what_is_missing_is_named_and_fails_only_that_run(
    house_with_secrets: House, reference: str, reason: str
) -> None:
    house = house_with_secrets
    house.write(
        f'[job.poor]\ncommand = "echo $A"\nenv = {{ A = "{reference}" }}\n[job.rich]\ncommand = "true"\n'
    )
    checked = house.run("check")
    assert checked.returncode == 0
    assert reference in checked.stderr
    house.ok("start")
    row = house.outcome("poor")
    assert row["state"] == "failed"
    assert reference in row["error"]
    assert reason in row["error"]
    assert house.outcome("rich")["state"] == "succeeded"


def test_without_systemd_a_credential_says_so(house: House) -> None:
    house.environ.pop("CREDENTIALS_DIRECTORY", None)
    house.write('[job.poor]\ncommand = "echo $A"\nenv = { A = "${credential:api-key}" }\n')
    house.ok("start")
    assert "LoadCredential=" in house.outcome("poor")["error"]


def test_a_changed_secret_is_read_anew(house_with_secrets: House) -> None:
    house = house_with_secrets
    house.write('[job.a]\ncommand = "echo ${#B}"\nenv = { B = "${credential:api-key}" }\n')
    house.ok("start")
    assert house.run("run", "a", "--wait").stdout == f"{len(FROM_SYSTEMD)}\n"
    (house.directory / "secret" / "api-key").write_text("short")
    assert house.run("run", "a", "--wait").stdout == "5\n"


# ── calls ─────────────────────────────────────────────────────────────────────────────────────


class Listener:
    """An HTTP server that keeps what it was told."""

    def __init__(self) -> None:
        heard = self.heard = []  # type: list[str]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.headers["Authorization"])
                self.send_response(403)
                self.end_headers()
                self.wfile.write(f"refused: {self.headers['Authorization']}".encode())

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()
    listener.thread.join()
    listener.server.server_close()


def test_a_call_sends_the_secret_and_tells_nobody(house_with_secrets: House, listener: Listener) -> None:
    house = house_with_secrets
    house.write(f"""
    [job.call.http]
    url = "{listener.url}"
    headers = {{ Authorization = "Bearer ${{file:{house.directory}/secret/token}}" }}
    """)
    house.ok("start")
    row = house.outcome("call")
    assert listener.heard == [f"Bearer {FROM_FILE}"]
    assert row["state"] == "failed"
    assert_silent(str(row))
    assert_silent(house.run("output", str(row["run"])).stdout)
    assert_silent(house.run("logs", "--json").stdout)

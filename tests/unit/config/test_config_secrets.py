"""Secrets are looked up late and shown never."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from echosched.config.load import load
from echosched.config.secrets import SecretResolver, doubtful, references
from echosched.errors import ConfigError, ExecutionError

SECRET = "s3cr3t-value-of-the-test"


def test_references_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "cred").write_text("from-systemd")
    resolve = SecretResolver({"A": "1", "CREDENTIALS_DIRECTORY": str(tmp_path), "EMPTY": ""})
    text = f"x ${{env:A}} ${{file:{tmp_path}/key}} ${{credential:cred}} [${{env:EMPTY}}] $HOME ${{HOME}} ${{X:-y}}"
    assert resolve(text) == "x 1 from-file from-systemd [] $HOME ${HOME} ${X:-y}"


def test_what_a_reference_names_is_not_read_as_a_reference_again() -> None:
    assert SecretResolver({"A": "${env:B}", "B": "b"})("${env:A}") == "${env:B}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${env:NOPE}", "${env:NOPE}: not set in the daemon's environment"),
        ("${env:}", "${env:}: not set in the daemon's environment"),
        ("${file:/no/such/file}", "${file:/no/such/file}: No such file or directory"),
        ("${file:relative}", "${file:relative}: must be an absolute path"),
        ("${file:/}", "${file:/}: Is a directory"),
        ("${file:/dev/null}", "${file:/dev/null}: is empty"),
        ("${credential:x}", "${credential:x}: systemd gave no credentials (LoadCredential= in the unit)"),
    ],
)
def test_an_unset_reference_is_named(text: str, reason: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        SecretResolver({})(text)
    assert str(caught.value) == reason


def test_a_credential_cannot_leave_its_directory(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="not the name of a credential"):
        SecretResolver({"CREDENTIALS_DIRECTORY": str(tmp_path)})("${credential:../x}")


def test_files_that_hang_or_are_no_text_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    resolve = SecretResolver({})
    with pytest.raises(ExecutionError, match="is empty"):
        resolve(f"${{file:{tmp_path}/pipe}}")
    with pytest.raises(ExecutionError, match="is not UTF-8 text"):
        resolve(f"${{file:{tmp_path}/binary}}")
    with pytest.raises(ExecutionError, match="is larger than"):
        resolve(f"${{file:{tmp_path}/large}}")


def test_redact_masks_whatever_was_resolved() -> None:
    resolve = SecretResolver({"A": "hunter2", "B": "hunter2-and-more", "C": "no", "D": "line1x\nline2x"})
    assert resolve.redact("hunter2") == "hunter2"
    for name in "ABCD":
        resolve(f"${{env:{name}}}")
    assert resolve.redact("a hunter2-and-more b hunter2 c no") == "a [secret] b [secret] c no"
    assert resolve.redact("only line2x of it") == "only [secret] of it"


def test_references_and_near_misses_are_told_apart() -> None:
    assert list(references("${env:A}-${file:/b}-${HOME}")) == ["${env:A}", "${file:/b}"]
    assert doubtful("${envv:SECRET}") == '${envv:…} is no reference and stays as it is (did you mean "env"?)'
    assert doubtful("${var:0:3} ${x:-env} ${env:A}") is None


CONFIG = """
[notify.ops]
kind = "webhook"
url = "https://hooks.example/${env:KEY}"
[job.call]
schedule = "0 8 * * *"
http = { url = "${env:BASE}/x", headers = { X-Dash-Key = "${env:KEY}" } }
[job.run]
schedule = "0 8 * * *"
command = "deploy ${env:MISSING} ${evn:KEY}"
env = { TOKEN = "${file:/no/such/token}" }
"""


def test_unset_secrets_are_warnings_and_no_value_is_ever_shown(tmp_path: Path) -> None:
    (tmp_path / "echosched.toml").write_text(CONFIG)
    config = load(
        str(tmp_path / "echosched.toml"), environ={"KEY": SECRET, "BASE": "http://" + SECRET}, uid=1000
    )
    assert SECRET not in repr(config)
    suffix = "(now; each run looks again and fails without it)"
    assert set(config.warnings) == {
        'echosched.toml: job.run: ${evn:…} is no reference and stays as it is (did you mean "env"?)',
        f"echosched.toml: job.run: ${{env:MISSING}}: not set in the daemon's environment {suffix}",
        f"echosched.toml: job.run: ${{file:/no/such/token}}: No such file or directory {suffix}",
    }


@pytest.mark.parametrize(
    "line",
    [
        f'http = {{ url = "https://x/", headers = {{ "Bad Name" = "{SECRET}" }} }}',
        f'http = {{ url = "{SECRET}" }}',
        f'http = "{SECRET}"',
        f'http = {{ url = "https://x/", body = ["{SECRET}"] }}',
        f'http = {{ url = "https://x/", headers = {{ A = "x\\n{SECRET}" }} }}',
        f'http = {{ url = "https://x/", headers = ["{SECRET}"] }}',
        f'command = "x"\nenv = ["{SECRET}"]',
        f'command = "x"\nenv = {{ "A B" = "{SECRET}" }}',
        f'command = "x"\nstdin = ["{SECRET}"]',
        f'command = "x"\nhealthcheck = "{SECRET}"',
        f'command = {{ a = "{SECRET}" }}',
        f'command = ["a", 1, "{SECRET}"]',
    ],
)
def test_a_literal_secret_is_not_repeated_in_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.toml").write_text("[job.x]\n" + line)
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "a.toml"), environ={}, uid=1000)
    assert SECRET not in str(caught.value)
    assert "a.toml: job.x." in str(caught.value)


def test_notify_secrets_stay_out_of_repr_and_errors(tmp_path: Path) -> None:
    good = f"""
    [notify.m]
    kind = "mail"
    to = "a@b.c"
    smtp_password = "{SECRET}"
    """
    (tmp_path / "a.toml").write_text(good)
    assert SECRET not in repr(load(str(tmp_path / "a.toml"), environ={}, uid=1000))
    bad = good.replace(f'smtp_password = "{SECRET}"', f'smtp_password = ["{SECRET}"]')
    (tmp_path / "a.toml").write_text(bad)
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "a.toml"), environ={}, uid=1000)
    assert SECRET not in str(caught.value)
    assert len(caught.value.problems) == 1


def test_values_that_threads_resolve_at_once_are_all_masked() -> None:
    names = [[f"S{thread}_{number}" for number in range(150)] for thread in range(4)]
    environ = {name: f"value-of-{name}!" for of_thread in names for name in of_thread}
    resolve = SecretResolver(environ)
    together = threading.Barrier(len(names))

    def work(of_thread: list[str]) -> None:
        together.wait()
        for number, name in enumerate(of_thread):
            resolve(f"${{env:{name}}}")
            resolve.know([f"known-with-{name}-{number}"])

    threads = [threading.Thread(target=work, args=(of_thread,)) for of_thread in names]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert set(environ.values()) <= set(resolve.seen)
    assert len(resolve.seen) == 2 * len(environ)
    assert not any(value in resolve.redact(f"failed with {value}") for value in environ.values())

"""Whatever stands in a file: a Config or a ConfigError with readable lines, never anything else."""

# ruff: noqa: PT017 - either way is fine here, and each way has its own promises

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from echosched.config.crontab import slug, split_command, walk
from echosched.config.crontab_import import import_crontab
from echosched.config.job_keys import JOB_KEYS
from echosched.config.load import MAIN_TABLES, load
from echosched.config.secrets import SecretResolver, doubtful, references
from echosched.errors import ConfigError, ExecutionError

RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def judge(directory: Path, toml: bytes, crontab: bytes = b"") -> ConfigError | None:
    (directory / "echosched.toml").write_bytes(toml)
    (directory / "crontab").write_bytes(crontab)
    try:
        config = load(str(directory / "echosched.toml"), environ={}, uid=1000)
    except ConfigError as error:
        assert error.problems
        for line in error.problems:
            assert line.isprintable(), line
            assert len(line) < 1000
            assert ": " in line
        return error
    for name, job in config.jobs.items():
        assert job.name == name
        assert len(job.definition) == len(job.timing) == 16
        json.dumps(job.description)
    return None


# ── TOML ──────────────────────────────────────────────────────────────────────────────────────

NASTY = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\x00",
        "a\nb",
        "\x1b[31m",
        "${env:",
        "${env:X}",
        "${file:/}",
        "~",
        "~nobody/x",
        "~n0body",
        "/",
        "0",
        "-1",
        "1e9",
        "9" * 50,
        "every",
        "after",
        "after x",
        "@boot",
        "* * * * *",
        "every 0s",
        "UTC",
        "nan",
        "http://",
        "http://x y",
        "💥",
        "\ud7ff",
    ]
)
SCALARS = (
    NASTY
    | st.text(max_size=20)
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.booleans()
    | st.sampled_from(["skip", "last", "once", "brief", "x", "a:b"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*JOB_KEYS, "command", "http", "python", "builtin", "zzz", ""])


def toml_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f") if value.isascii() else quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    return "{" + ", ".join(f"{quoted(key)} = {toml_of(item)}" for key, item in value.items()) + "}"


def quoted(text: str) -> str:
    return '"' + "".join(c if c in string.ascii_letters else f"\\U{ord(c):08x}" for c in text) + '"'


@RELAXED
@given(st.dictionaries(KEYS, VALUES, max_size=6))
@example({"command": "x", "timeout": 2**70})
@example({"command": "x", "limits": {"as": "9999999999999999999TiB"}})
@example({"http": {"url": "http://x", "json": float("nan")}})
@example({"command": "x", "retry_backoff": float("inf")})
@example({"command": "x", "cwd": "~" + "a" * 5000})
@example({"command": "x", "schedule": "after a", "after": "b"})
def test_any_job_table_gives_a_job_or_clear_errors(directory: Path, table: dict[str, Any]) -> None:
    lines = "".join(f"{quoted(key)} = {toml_of(value)}\n" for key, value in table.items())
    judge(directory, f"[job.a]\n{lines}[job.b]\nbuiltin = 'brief'\n".encode())


@RELAXED
@given(st.dictionaries(st.sampled_from([*MAIN_TABLES, "zzz"]), VALUES, max_size=4))
def test_any_document_gives_a_config_or_clear_errors(directory: Path, document: dict[str, Any]) -> None:
    document.pop("include", None)  # would read files of this machine
    judge(directory, "".join(f"{key} = {toml_of(value)}\n" for key, value in document.items()).encode())


@RELAXED
@given(
    st.sampled_from(["daemon", "retention", "web", "cluster", "defaults", "notify.x"]),
    st.sampled_from(
        "tick grace umask user runs keep port host dsn kind to url on labels timeout env core_dumps".split()
    ),
    VALUES,
)
def test_any_value_of_any_setting_is_taken_or_refused(
    directory: Path, table: str, key: str, value: Any
) -> None:
    judge(directory, f"[{table}]\n{key} = {toml_of(value)}\n".encode())


@RELAXED
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@example(b"a = " + b"[" * 5000)
@example(b"a = " + b"{a=" * 3000)
@example(b"a." * 5000 + b"a = 1")
@example(b"a = 9999-99-99")
@example(b"[job.a]\ncommand = 'x'\nschedule = '" + b"*/5," * 2000 + b"5 * * * *'")
def test_any_bytes_give_a_config_or_clear_errors(directory: Path, data: bytes) -> None:
    if b"include" not in data:
        judge(directory, data)


# ── crontab ───────────────────────────────────────────────────────────────────────────────────

FIELD = st.sampled_from(
    [
        "*",
        "0",
        "5",
        "*/5",
        "1-5",
        "59",
        "60",
        "L",
        "H",
        "~",
        "0~9",
        "mon",
        "jan",
        "?",
        "7",
        "1,2",
        ",",
        "-",
        "x",
    ]
)
COMMAND = st.text(st.sampled_from("ab /%\\\"'|&;<>$#=~\t\r\x0c\x85\x00é\U0001f4a5"), max_size=25)
LINE = st.one_of(
    st.builds(
        lambda fields, command: " ".join(fields) + " " + command,
        st.lists(FIELD, min_size=3, max_size=7),
        COMMAND,
    ),
    st.builds(
        lambda nick, command: nick + " " + command, st.sampled_from(["@daily", "@reboot", "@x", "@"]), COMMAND
    ),
    st.builds(
        lambda name, value: f"{name}={value}",
        st.sampled_from(["A", "MAILTO", "CRON_TZ", "TZ", "RANDOM_DELAY", "SHELL", "HOME", '"A B"', "''"]),
        COMMAND | st.sampled_from(["UTC", "Europe/Berlin", "5", "x@y.z", "a,b", "/bin/bash", "99999999999"]),
    ),
    COMMAND.map(lambda text: "#" + text),
    COMMAND,
)
CRONTAB = st.lists(LINE, max_size=8).map("\n".join)
RUN_IT = b"timezone = 'UTC'\n[daemon]\ncrontabs = 'crontab'\n"


@RELAXED
@given(CRONTAB)
@example("SHELL=\n@daily x")
@example("MAILTO=a<b\n@daily x")
@example("HOME=~\n@daily x\nHOME=\n@daily x")
def test_any_crontab_gives_jobs_or_clear_errors_and_imports_alike(directory: Path, text: str) -> None:
    data = text.encode()
    error = judge(directory, RUN_IT, data)
    try:
        toml = import_crontab(text, timezone="UTC", name="crontab")
    except ConfigError as refused:
        # NUL characters are told once for a file, but line by line on import.
        assert error is not None
        if "\0" not in text:
            assert refused.problems == error.problems
        return
    wanted = load(str(directory / "echosched.toml"), environ={}, uid=1000).jobs if error is None else {}
    if error is None:
        (directory / "imported.toml").write_text(toml)
        got = load(str(directory / "imported.toml"), environ={}, uid=1000).jobs
        assert {n: (j.action, j.policy, j.process, j.definition, j.timing) for n, j in got.items()} == {
            n: (j.action, j.policy, j.process, j.definition, j.timing) for n, j in wanted.items()
        }


@RELAXED
@given(st.binary(max_size=300))
def test_any_bytes_are_a_crontab_or_clear_errors(directory: Path, data: bytes) -> None:
    judge(directory, RUN_IT, data)


@RELAXED
@given(CRONTAB)
def test_reading_a_crontab_twice_gives_the_same_jobs(directory: Path, text: str) -> None:
    if judge(directory, RUN_IT, text.encode()) is None:
        first = load(str(directory / "echosched.toml"), environ={}, uid=1000).jobs
        second = load(str(directory / "echosched.toml"), environ={}, uid=1000).jobs
        assert list(first) == list(second)
        assert all(first[name] is second[name] for name in first)


@RELAXED
@given(st.text(max_size=200))
def test_pieces_of_lines_never_crash(text: str) -> None:
    list(walk(text.split("\n")))
    command, stdin = split_command(text)
    assert len(command) + len(stdin or "") <= len(text) + 1
    assert slug(text)[0].isalnum()
    list(references(text))
    doubtful(text)
    try:
        SecretResolver({})(text)
    except ExecutionError as error:
        assert str(error)


@RELAXED
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="%\\"), max_size=40),
    st.lists(st.text("ab%\\", max_size=6), max_size=4),
)
def test_percent_signs_are_undone_exactly(command: str, given_lines: list[str]) -> None:
    written = command + "".join("%" + line.replace("%", "\\%") for line in given_lines)
    if any("\\" in line for line in given_lines):
        return
    found, stdin = split_command(written)
    expected = "\n".join(given_lines)
    if not given_lines:
        assert (found, stdin) == (command, None)
    else:
        assert found == command.rstrip()
        assert (stdin or "") == (expected if expected.endswith("\n") or not expected else expected + "\n")

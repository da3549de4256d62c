"""Wrong words on the command line: one line that says which, then the usage."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from echosched.cli.dispatch import dispatch
from echosched.cli.usage import USAGE


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "run: <job> is missing"),
        (["run", "a", "b"], "run: b: one argument too many"),
        (["run", "--home", "/nowhere"], "run: <job> is missing"),
        (["start", "extra"], "start: extra: one argument too many"),
        (["simulate", "--from", "2026-01-01"], "simulate: --to is missing"),
        (["service", "start", "all", "b"], "service: b: one argument too many"),
        (["run", "--wat", "x"], "run: --wat: unknown option (did you mean --wait?)"),
        (["statu"], "statu: there is no such command (did you mean status?)"),
        (["-x"], "-x: unknown option"),
        (["--home"], "--home: a value is missing (--home DIR)"),
        (["--hme", "x", "status"], "--hme: unknown option (did you mean --home?)"),
        (["--home", "/nowhere", "statu"], "statu: there is no such command (did you mean status?)"),
        (["--home", "/nowhere"], "a command is missing (echoschedd --help lists them)"),
        (["status", "-x"], "status: -x: unknown option"),
        (["status", "-json"], "status: -j: unknown option (did you mean --json?)"),
        (["status", "--json=3"], "status: --json: takes no value"),
        (["status", "--home"], "status: --home: a value is missing (--home DIR)"),
        (["history", "--since"], "history: --since: a value is missing (--since WHEN)"),
        (["logs", "-fn"], "logs: -fn: a value is missing (-fn N)"),
        (["logs", "-n", "-x", "-y"], "logs: -y: unknown option"),
        (["status", "--", "--json"], "status: --json: one argument too many"),
    ],
)
def test_wrong_words_get_one_line_in_plain_words_and_the_usage(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    first, usage, *_ = shown.err.splitlines()
    assert first == f"echoschedd: {told}"
    assert usage == "Usage:"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["next", "-n", "0", "--schedule", "hourly"], "-n: 0 shows nothing (at least 1)"),
        (["history", "-n", "0"], "-n: 0 shows nothing (at least 1)"),
        (["next", "-n", "9" * 5000], f"-n: {'9' * 20}… is too large"),
        (["next", "-n", "-3"], "-n: '-3' is not a whole number"),
        (
            ["next", "--schedule", "0 2 * * *", "--dst", "never"],
            "--dst: 'never': unknown (one of once, skip, every)",
        ),
        (
            ["next", "--dst", "skip", "job"],
            "next: --timezone and --dst go with --schedule (a job has its own)",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(words) == 2
    assert capsys.readouterr().err == f"echoschedd: {told}\n"


def test_coming_slots_follow_the_rule_for_daylight_saving_and_tell_no_distance_from_another_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "next",
        "--schedule",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--from",
        "2026-10-24T12:00:00Z",
    ]
    assert dispatch([*words, "-n", "2"]) == 0
    once = capsys.readouterr().out.splitlines()
    assert once[0].split() == ["AT", "LOCAL"]
    assert [line.split("  ")[1] for line in once[1:]] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    assert dispatch([*words, "-n", "2", "--dst", "every"]) == 0
    every = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in every[1:]] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
    ]
    assert dispatch(["next", "--schedule", "30 2 * * *", "-n", "1"]) == 0
    assert " in " in capsys.readouterr().out.splitlines()[1]


def test_a_crontab_that_cannot_be_understood_is_bad_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crontab = tmp_path / "mine"
    crontab.write_text("0 8 * * * echo good\n61 * * * * echo bad\n* * nonsense\n")
    assert dispatch(["import-crontab", str(crontab)]) == 65
    shown = capsys.readouterr()
    assert shown.out == ""
    told = shown.err.splitlines()
    assert len(told) == 2
    assert all(line.startswith(f"echoschedd: {crontab}") for line in told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulate", "--from", "0001-01-01", "--to", "9999-12-31"], "--from: '0001-01-01'"),
        (
            ["next", "--schedule", "hourly", "--from", "9999-12-31T23:59:59Z"],
            "--from: '9999-12-31T23:59:59Z'",
        ),
        (["next", "--schedule", "hourly", "--from", "1969-12-31"], "--from: '1969-12-31'"),
    ],
)
def test_instants_where_nothing_can_be_are_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "echosched.toml").write_text('[job.a]\nschedule = "@daily"\ncommand = "true"\n')
    assert dispatch([words[0], "--home", str(tmp_path), *words[1:]]) == 2
    assert capsys.readouterr().err == f"echoschedd: {told}: must lie between 1970 and 9000\n"


def test_the_journal_says_when_it_knows_nothing_of_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = '{"ts":"2026-01-01T00:00:00.000000Z","event":"run_start","job":"a","run":1}'
    (tmp_path / "echosched.log").write_text(line + "\n")
    assert dispatch(["logs", "--home", str(tmp_path), "--job", "a"]) == 0
    assert capsys.readouterr() == (line + "\n", "")
    assert dispatch(["logs", "--home", str(tmp_path), "--job", "b"]) == 0
    assert capsys.readouterr() == ("", "echoschedd: the journal has no event of job b\n")


def test_edit_without_a_terminal_or_an_editor_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert dispatch(["edit", "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("echoschedd: edit: there is no terminal to edit on")


@pytest.mark.parametrize("verb", sorted(USAGE))
def test_options_stand_where_every_docopt_looks_for_them(verb: str) -> None:
    # docopt-ng 0.8 reads no other section; the others read any line that begins with a dash.
    heading = ""
    for line in USAGE[verb].splitlines():
        if line and not line.startswith(" "):
            heading = line
        elif line.startswith("  -"):
            assert re.fullmatch(r"(\w+ )?options:", heading, re.IGNORECASE), line


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01",
        "2026-01-01T00:00",
        "2026-01-01 00:00:00",
        "2026-01-01T00:00:00.000",
        "2026-01-01T01:00+01:00",
    ],
)
def test_an_instant_without_a_zone_is_utc(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["next", "--schedule", "@hourly", "--timezone", "Europe/Berlin", "-n", "1", "--from", text]
    assert dispatch(words) == 0
    assert capsys.readouterr().out.splitlines()[1] == "2026-01-01 01:00:00Z  2026-01-01T02:00:00+01:00"


@pytest.mark.parametrize(
    "text", ["now", "2026-01-0x", "2026-01-01T24:61", "20260101T0000", "٢٠٢٦-01-01T00:00"]
)
def test_what_is_no_instant_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["next", "--schedule", "@hourly", "--from", text]) == 2
    assert f"--from: {text!r} is no instant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("after brief", "After each run of brief that succeeds."),
        ("after brief failure", "After each run of brief that fails."),
        ("After brief any", "After each run of brief."),
    ],
)
def test_a_chain_is_explained_without_slots(
    expression: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["explain", expression]) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert dispatch(["explain", expression, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schedule"], document["explanation"]) == (expression, said)
    assert (document["next"], document["transitions"]) == ([], [])


def test_every_command_shows_tracebacks_when_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path)]
    for words in (["run", "a", *home, "--debug"], ["--debug", "run", "a", *home], ["run", "a", *home]):
        assert dispatch(words) == 69
        shown = capsys.readouterr().err
        assert shown.endswith("no daemon listens there (echoschedd start)\n")
        assert ("Traceback" in shown) == ("--debug" in words)
    for command in USAGE:
        assert dispatch([command, "--help"]) == 0
        assert capsys.readouterr().out.count("--debug") == 1, command

"""Wrong words on the command line: one line that says which, then the usage."""

from __future__ import annotations

import pytest

from echosched.cli.dispatch import dispatch


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

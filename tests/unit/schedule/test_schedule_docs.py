"""docs/schedules.md: every command in it is run again, and says what the page says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from echosched.cli import main

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import pages

PAGE = Path(__file__).parents[3] / "docs" / "schedules.md"
SLOT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?Z")


def examples() -> list[tuple[str, list[str]]]:
    """Return (command, output lines) of every console block."""
    return [(example.command, example.shown) for example in pages.examples(PAGE)]


def essence(lines: list[str]) -> list[str]:
    """Return what must not change: slots in UTC and sentences, without what depends on the present."""
    kept = []
    for line in lines:
        slot = SLOT.search(line)
        kept.append(slot[0] if slot else line)
    return [line for line in kept if line and not line.startswith(("AT ", "JOB ", "daylight saving:"))]


@pytest.mark.parametrize(("command", "shown"), examples(), ids=[command for command, _ in examples()])
def test_the_page_shows_what_the_command_says(
    command: str,
    shown: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "echosched.toml").write_text(
        'timezone = "Europe/Berlin"\n[job.report]\nschedule = ["0 9 * * 1-5", "0 12 * * Sat"]\n'
        'except = ["12-25", "2026-12-28..2027-01-01"]\ncommand = "true"\n'
    )
    monkeypatch.setenv("ECHOSCHED_HOME", str(tmp_path))
    words = shlex.split(command)
    assert words[0] == "echoschedd"
    main(words[1:])
    captured = capsys.readouterr()
    said = (captured.out + captured.err).splitlines()
    if "--from" in words:
        assert said == shown
        return
    if words[1] == "explain":  # its slots are the next from now on: the sentence stays
        said, shown = said[:1], shown[:1]
    assert essence(said) == essence(shown)


def test_the_page_has_an_example_of_each_form() -> None:
    commands = " ".join(command for command, _ in examples())
    for form in (
        "0 9 * * 1-5",
        "Mon..Fri 08:00",
        "every 90m",
        "'at ",
        "@weekly",
        "quarterly",
        "simulate",
        "explain",
    ):
        assert form in commands
    assert len(examples()) > 25

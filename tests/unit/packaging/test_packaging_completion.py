"""Completions, asked as bash asks. tests/packaging asks zsh and fish the same, in a root that has them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from echosched.cli.completion import commands, options_of, script
from echosched.cli.usage import TOP, USAGE
from echosched.errors import UsageError

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("completions")
    for shell in ("bash", "zsh", "fish"):
        (directory / shell).write_text(script(shell))
    program = directory / "bin/echoschedd"
    program.parent.mkdir()
    # Answers as `jobs --json` does; --home gives other jobs, so that a test sees which instance was asked.
    names = [{"name": "backup", "schedule": "0 2 * * *"}, {"name": "brief", "schedule": "@daily"}]
    other = [{"name": "elsewhere", "schedule": "@daily"}]
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in *--home*) echo '{json.dumps(other)}' ;; *) echo '{json.dumps(names)}' ;; esac\n"
    )
    program.chmod(0o755)
    return directory


def bash(scripts: Path, line: str) -> set[str]:
    """Return what bash offers at the end of a command line."""
    ask = f"""
        PATH={scripts}/bin:$PATH; source {scripts}/bash
        read -ra COMP_WORDS <<< "$1"; [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE=$1; COMP_POINT=${{#1}}
        _echoschedd; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", ask, "bash", line], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return set(done.stdout.split())


CASES = [
    ("echoschedd ", set(USAGE), set()),
    ("echoschedd st", {"start", "stop", "status"}, {"run"}),
    ("echoschedd --v", {"--version"}, {"--home"}),
    ("echoschedd start --f", {"--foreground", "--force"}, {"--detach"}),
    ("echoschedd --home /x start --e", {"--exclusive"}, {"--version"}),
    ("echoschedd run ", {"backup", "brief"}, {"--wait"}),
    ("echoschedd run --wait b", {"backup", "brief"}, set()),
    ("echoschedd run --home /x ", {"elsewhere"}, {"backup"}),
    ("echoschedd run backup ", set(), {"backup", "brief"}),
    ("echoschedd logs --job ", {"backup", "brief"}, set()),
    ("echoschedd history -n 5 --state ", {"succeeded", "abandoned"}, {"backup"}),
    ("echoschedd explain --dst ", {"once", "skip", "every"}, set()),
    ("echoschedd service ", {"start", "stop", "restart", "status", "logs"}, {"web"}),
    ("echoschedd service start ", {"all", "scheduler", "web"}, {"stop"}),
    ("echoschedd completion ", {"bash", "zsh", "fish"}, set()),
    ("echoschedd start --wait ", set(), {"--force", "start"}),
]


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(("line", "offered", "withheld"), CASES)
def test_bash_offers_what_fits(scripts: Path, line: str, offered: set[str], withheld: set[str]) -> None:
    found = bash(scripts, line)
    assert offered <= found
    assert not withheld & found


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_offers_files_and_directories(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    assert bash(scripts, f"echoschedd check {tmp_path}/") == {f"{tmp_path}/dir", f"{tmp_path}/file"}
    assert bash(scripts, f"echoschedd start --home {tmp_path}/") == {f"{tmp_path}/dir"}


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize("command", USAGE)
def test_bash_offers_every_option_of_every_command(scripts: Path, command: str) -> None:
    expected = {name for option in options_of(USAGE[command]) for name in option.names}
    assert bash(scripts, f"echoschedd {command} -") == expected


def test_every_command_of_the_usage_texts_is_told_in_the_top_level_text() -> None:
    assert set(commands()) == set(USAGE)


@pytest.mark.parametrize("command", USAGE)
def test_every_option_line_of_a_usage_text_is_understood(command: str) -> None:
    lines = [line for line in USAGE[command].splitlines() if line.startswith("  -")]
    assert len(options_of(USAGE[command])) == len(lines)


def test_options_of_the_top_level_text_are_understood() -> None:
    assert {"--foreground", "--version"} <= {name for option in options_of(TOP) for name in option.names}


def test_an_unknown_shell_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="tcsh"):
        script("tcsh")

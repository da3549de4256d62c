"""``edit``: only what is valid is saved, nothing that was typed is lost, a running daemon follows."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from terminal import Terminal

if TYPE_CHECKING:
    from tests.system.conftest import House

CLI = [sys.executable, "-P", str(Path(__file__).resolve().parents[2] / "echosched" / "cli" / "__main__.py")]
GOOD = '[job.a]\nschedule = "0 8 * * *"\ncommand = "true"\n'
BETTER = '[job.a]\nschedule = "0 9 * * *"\ncommand = "true"\n'
BAD = '[job.a]\nschedule = "0 25 * * *"\ncommand = "true"\n'


@pytest.fixture
def editor(house: House, tmp_path: Path) -> Editor:
    return Editor(house, tmp_path)


class Editor:
    """An editor that types what it is told, one text after another."""

    def __init__(self, house: House, path: Path) -> None:
        self.house = house
        self.path = path
        self.script = path / "my editor"  # with a blank in its name
        self.script.write_text(
            f"#!/bin/sh\nnumber=$(cat {path}/count 2>/dev/null || echo 1)\necho $((number + 1)) >{path}/count\n"
            f'basename "$1" >>{path}/names\n[ -e {path}/text.$number ] && cat {path}/text.$number >"$1"\n'
            f"[ -e {path}/also.$number ] && . {path}/also.$number\nexit 0\n"
        )
        self.script.chmod(0o755)
        house.environ |= {"EDITOR": f"'{self.script}'", "TMPDIR": str(path)}
        house.environ.pop("VISUAL", None)

    def types(self, *texts: str) -> None:
        for number, text in enumerate(texts, 1):
            (self.path / f"text.{number}").write_text(text)

    @property
    def drafts(self) -> list[Path]:
        return list(self.path.glob("echosched-edit-*/*"))


def test_a_valid_change_is_saved_with_its_mode_and_followed(house: House, editor: Editor) -> None:
    config = house.write(GOOD)
    config.chmod(0o600)
    house.ok("start")
    editor.types(BETTER)
    said = house.ok("edit")
    assert config.read_text() == BETTER
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert re.search(r"saved\nreloaded: 1 jobs\n$", said)
    assert house.json("jobs")[0]["schedule"] == "0 9 * * *"
    assert (editor.path / "names").read_text() == "echosched.toml\n"
    assert not list(editor.path.glob("echosched-edit-*"))


def test_without_a_daemon_it_is_only_saved(house: House, editor: Editor) -> None:
    house.write(GOOD)
    editor.types(BETTER)
    assert "reloaded" not in house.ok("edit")


def test_a_bad_change_is_not_saved_and_not_lost(house: House, editor: Editor) -> None:
    config = house.write(GOOD)
    editor.types(BAD)
    done = house.run("edit")
    assert done.returncode == 1
    assert "hour must be" in done.stderr
    (draft,) = editor.drafts
    assert f"your text is in {draft}" in done.stderr
    assert config.read_text() == GOOD
    assert draft.read_text() == BAD


def test_leaving_it_alone_changes_nothing(house: House, editor: Editor) -> None:
    house.write(GOOD)
    assert "unchanged" in house.ok("edit")
    assert not editor.drafts


@pytest.mark.parametrize("editor_command", ["false", "/no/such/editor"])
def test_a_failing_editor_changes_nothing(house: House, editor: Editor, editor_command: str) -> None:
    config = house.write(GOOD)
    house.environ["EDITOR"] = editor_command
    done = house.run("edit")
    assert done.returncode == 1
    assert config.read_text() == GOOD
    assert "Traceback" not in done.stderr


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(house: House, editor: Editor) -> None:
    config = house.write(GOOD)
    editor.types(BETTER)
    (editor.path / "also.1").write_text(f"echo '# theirs' >>{config}\n")
    done = house.run("edit")
    assert done.returncode == 1
    assert "changed by somebody else" in done.stderr
    assert config.read_text() == GOOD + "# theirs\n"
    assert editor.drafts[0].read_text() == BETTER


def test_a_drop_in_is_judged_with_the_files_around_it(house: House, editor: Editor) -> None:
    house.write('[defaults]\ntimeout = "5m"\n' + GOOD)
    editor.types(GOOD)
    drop_in = house.directory / "jobs.d" / "more.toml"
    done = house.run("edit", str(drop_in))
    assert done.returncode == 1
    assert "job.a: is defined in echosched.toml too" in done.stderr
    assert not drop_in.exists()
    editor.types("", GOOD.replace("job.a", "job.b"))
    house.ok("edit", str(drop_in))
    assert stat.S_IMODE(drop_in.stat().st_mode) == 0o640
    assert "2 jobs" in house.ok("check")


def test_a_first_configuration_gets_its_directory(house: House, editor: Editor) -> None:
    editor.types(GOOD)
    place = house.directory / "etc" / "echosched" / "mine.toml"
    done = house.run("edit", "--config", str(place))
    assert done.returncode == 0, done.stderr
    assert place.read_text() == GOOD


def test_a_link_stays_a_link(house: House, editor: Editor) -> None:
    real = house.directory / "real.toml"
    real.write_text(GOOD)
    (house.directory / "echosched.toml").symlink_to(real)
    editor.types(BETTER)
    house.ok("edit")
    assert (house.directory / "echosched.toml").is_symlink()
    assert real.read_text() == BETTER


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("answer", ["\n", "n\n"])
def test_at_a_terminal_it_asks_whether_to_edit_again(
    house: House, editor: Editor, terminals: list[Terminal], answer: str
) -> None:
    config = house.write(GOOD)
    editor.types(BAD, BETTER)
    terminal = Terminal([*CLI, "edit", "--home", str(house.directory)], house.environ)
    terminals.append(terminal)
    terminal.expect(r"hour must be(?s:.*)Edit again\? \[Y/n\]")
    terminal.press(answer)
    again = answer == "\n"
    assert terminal.end() == (0 if again else 1)
    assert config.read_text() == (BETTER if again else GOOD)
    assert len(editor.drafts) == (0 if again else 1)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="other owners need root")
def test_the_owner_stays(house: House, editor: Editor) -> None:
    config = house.write(GOOD)
    os.chown(config, 0, 4242)
    editor.types(BETTER)
    house.ok("edit")
    assert (config.stat().st_uid, config.stat().st_gid) == (0, 4242)

"""Which commands need a shell, and what becomes of them."""

from __future__ import annotations

import pytest

from echosched.errors import ExecutionError
from echosched.executor.commandline import as_words, command_line
from echosched.model import CommandAction


def as_is(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", ["true"]),
        ("  /usr/bin/backup   -v  /home ", ["/usr/bin/backup", "-v", "/home"]),
        ("echo 'two words' \"and more\"", ["echo", "two words", "and more"]),
        ("dd if=/dev/zero of=/tmp/x", ["dd", "if=/dev/zero", "of=/tmp/x"]),
        ("curl ${env:URL}/x", ["curl", "${env:URL}/x"]),
        ("date +%s", ["date", "+%s"]),
        ("echo ''", ["echo", ""]),
    ],
)
def test_text_without_shell_syntax_is_split_into_words(text: str, words: list[str]) -> None:
    assert as_words(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "a && b",
        "a; b",
        "a > /dev/null",
        "echo $HOME",
        "echo `date`",
        "ls *.txt",
        "ls file?",
        "ls [ab]",
        "cd /tmp",
        "exec true",
        ". ./profile",
        "FOO=1 env",
        "echo ~/x",
        "echo a\\ b",
        "(true)",
        "echo {a,b}",
        "! true",
        "true # comment",
        "true\nfalse",
        "sleep 1 &",
        "echo 'unbalanced",
        "echo '${env:X}'",
        "while true",
    ],
)
def test_text_with_shell_syntax_goes_to_the_shell(text: str) -> None:
    assert as_words(text) is None
    assert command_line(CommandAction(text), as_is) == ["/bin/sh", "-c", text]


def test_arguments_are_appended_to_a_direct_command() -> None:
    assert command_line(CommandAction("ls -l", args=("a b",)), as_is) == ["ls", "-l", "a b"]


def test_arguments_are_positional_for_a_shell() -> None:
    action = CommandAction('echo "$1" | cat', args=("a b",))
    assert command_line(action, as_is) == ["/bin/sh", "-c", 'echo "$1" | cat', "/bin/sh", "a b"]


def test_a_shell_of_the_job_s_own_always_runs() -> None:
    action = CommandAction("true", shell="/bin/bash -e")
    assert command_line(action, as_is) == ["/bin/bash", "-e", "-c", "true"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("python3", ["python3", "-c", "x", "1"]),
        ("/usr/bin/perl", ["/usr/bin/perl", "-e", "x", "1"]),
        ("bash", ["bash", "-c", "x", "bash", "1"]),
    ],
)
def test_interpreters_get_text_and_arguments_their_way(shell: str, line: list[str]) -> None:
    assert command_line(CommandAction("x", shell=shell, args=("1",)), as_is) == line


def test_a_list_is_never_given_to_a_shell() -> None:
    action = CommandAction(("echo", "a;b", "$HOME"), args=("*",), shell="/bin/bash")
    assert command_line(action, as_is) == ["echo", "a;b", "$HOME", "*"]


def test_resolved_references_are_not_split_or_interpreted() -> None:
    def resolve(text: str) -> str:
        return text.replace("${env:X}", "one two; three")

    assert command_line(CommandAction("echo ${env:X}"), resolve) == ["echo", "one two; three"]


@pytest.mark.parametrize("command", ["", "   ", ()])
def test_an_empty_command_is_refused(command: str | tuple[str, ...]) -> None:
    with pytest.raises(ExecutionError, match="empty"):
        command_line(CommandAction(command), as_is)

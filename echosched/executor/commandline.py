"""From a command as it was written to an argument vector. Pure.

A string that holds nothing a shell would interpret is run without one, as ``make`` does: one process
less for each run, and an exact reason when the program is missing. Whatever is in doubt goes to the shell.
"""

from __future__ import annotations

import os.path
import re
import shlex
from collections.abc import Callable

from echosched.errors import ExecutionError
from echosched.model import CommandAction

DEFAULT_SHELL = "/bin/sh"

_REFERENCE = re.compile(r"\$\{(?:env|file|credential):[^}]*\}")
_SPECIAL = frozenset("|&;<>()$`\\*?[]#~!{}\n\r\0")
# Words that a POSIX shell treats as syntax or that only make sense inside a shell.
_SHELL_WORDS = frozenset(
    """. : alias bg break builtin case cd command continue declare do done elif else esac eval exec exit
    export fc fg fi for function getopts hash if jobs let local popd pushd read readonly return select set
    shift shopt source then time times trap type typeset ulimit umask unalias unset until wait while""".split()
)
# After ``-c TEXT`` these take the next argument as $0; others (python, fish) as their first argument.
_NAMES_ITSELF = frozenset({"sh", "ash", "bash", "dash", "ksh", "ksh93", "mksh", "yash", "zsh", "busybox"})
_TEXT_FLAG = {"perl": "-e", "ruby": "-e", "node": "-e", "lua": "-e", "php": "-r"}


def as_words(text: str) -> list[str] | None:
    """Return the words of *text* if it needs no shell, else ``None``.

    References to secrets (``${env:…}``) are not shell syntax; they stay in their word.
    """
    bare = _REFERENCE.sub("x", text)
    if not _SPECIAL.isdisjoint(bare):
        return None
    if "'" in bare or '"' in bare:
        if bare != text:
            return None  # a reference inside quotes: leave quoting to the shell
        try:
            words = shlex.split(text)
        except ValueError:
            return None  # unbalanced: the shell has the better message
    else:
        words = text.split()
    if not words or words[0] in _SHELL_WORDS or "=" in words[0]:
        return None
    return words


def needs_shell(action: CommandAction) -> bool:
    """Tell whether *action* is run through a shell."""
    return isinstance(action.command, str) and (action.shell is not None or as_words(action.command) is None)


def command_line(action: CommandAction, resolve: Callable[[str], str]) -> list[str]:
    """Return what to run for *action*, its references resolved; raises ``ExecutionError`` when there is nothing.

    A tuple is the vector itself. A string runs through *action.shell* when that is set, directly when
    it holds no shell syntax, else through /bin/sh; *args* are appended, or are ``$1`` … of the shell.
    """
    command, args = action.command, [resolve(arg) for arg in action.args]
    if not isinstance(command, str):
        if not command:
            raise ExecutionError("command: the list is empty")
        return [resolve(word) for word in command] + args
    if not command.strip():
        raise ExecutionError("command: the text is empty")
    if action.shell is None:
        words = as_words(command)
        if words is not None:
            return [resolve(word) for word in words] + args
    return _through(action.shell or DEFAULT_SHELL, resolve(command), args)


def _through(shell: str, text: str, args: list[str]) -> list[str]:
    head = shlex.split(shell) or [DEFAULT_SHELL]
    name = os.path.basename(head[0])
    line = [*head, _TEXT_FLAG.get(name, "-c"), text]
    if args and name in _NAMES_ITSELF:
        line.append(head[0])
    return line + args

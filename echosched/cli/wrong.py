"""What is wrong with a command line, in one line of plain words.

docopt only says that nothing fits; whoever typed ``--forground`` wants to read which word it was.
"""

from __future__ import annotations

import difflib
import re

from echosched.cli.usage import USAGE

_OPTION_LINE = re.compile(r"^  (-\S+(?: -\S+)*)(?: ([A-Z]+))?(?:  |$)", re.MULTILINE)


def options_of(text: str) -> dict[str, str | None]:
    """Return the options that a usage *text* lists: each name with the word for its value, ``None`` for a switch."""
    found: dict[str, str | None] = {}
    for names, value in _OPTION_LINE.findall(text):
        found.update(dict.fromkeys(names.split(), value or None))
    return found


def wrong_option(text: str, words: list[str]) -> str | None:
    """Return what is wrong with the options among *words*, going by usage *text*; ``None``: nothing."""
    known = options_of(text)
    at = 0
    while at < len(words) and words[at] != "--":
        word = words[at]
        at += 1
        if not word.startswith("-") or word == "-":
            continue
        told, value = _judge(word, known)
        if told is not None:
            return told
        if value is not None:
            if at == len(words):
                return f"{word}: a value is missing ({word} {value})"
            at += 1
    return None


def _judge(word: str, known: dict[str, str | None]) -> tuple[str | None, str | None]:
    """Return what is wrong with the option *word*, and for which value the next word stands."""
    if not word.startswith("--"):
        return _judge_short(word, known)
    name, equals, _ = word.partition("=")
    fitting = [name] if name in known else [option for option in known if option.startswith(name)]
    if not fitting:
        return f"{name}: unknown option" + _near(name, known), None
    value = known[fitting[0]]
    if equals and value is None:
        return f"{fitting[0]}: takes no value", None
    return None, None if equals or len(fitting) > 1 else value


def _judge_short(word: str, known: dict[str, str | None]) -> tuple[str | None, str | None]:
    for at, letter in enumerate(word[1:], 1):
        option = f"-{letter}"
        if option not in known:
            return f"{option}: unknown option" + _near("-" + word, known), None
        if known[option] is not None:
            return None, known[option] if at == len(word) - 1 else None
    return None, None


def _near(name: str, known: dict[str, str | None]) -> str:
    near = difflib.get_close_matches(name, [option for option in known if option.startswith("--")], 1)
    return f" (did you mean {near[0]}?)" if near else ""


def wrong_words(verb: str, words: list[str]) -> str:
    """Say what is wrong with *words*, which *verb* does not take."""
    return wrong_option(USAGE[verb], words) or _wrong_arguments(verb, words)


def _wrong_arguments(verb: str, words: list[str]) -> str:
    """Say which argument is missing, or which is one too many."""
    usage = USAGE[verb].partition("Usage:")[2].partition("\n\n")[0]
    wanted = re.findall(r"<[a-z]+>", usage)
    needed = re.findall(r"<[a-z]+>", re.sub(r"\[[^]]*\]", "", usage))
    valued = {option for option, value in options_of(USAGE[verb]).items() if value is not None}
    given, at = [], 0
    while at < len(words):
        if words[at] == "--":
            given += words[at + 1 :]
            break
        if words[at] in valued:
            at += 1
        elif not words[at].startswith("-"):
            given.append(words[at])
        at += 1
    if len(given) > len(wanted):
        return f"{given[len(wanted)]}: one argument too many"
    if len(given) < len(needed):
        return f"{needed[len(given)]} is missing"
    absent = [option for option in re.findall(r" (--[a-z]+) [A-Z]\b", usage) if option not in words]
    return f"{absent[0]} is missing" if absent else "wrong arguments"


def unknown(verb: str) -> str:
    """Say that there is no such command, with the nearest that there is."""
    near = difflib.get_close_matches(verb, USAGE, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "echoschedd --help lists them"
    return f"{verb}: there is no such command ({hint})"


def usage_of(text: str) -> str:
    """Return the usage block of a help *text*."""
    return text[text.index("Usage:") :].split("\n\n", 1)[0]

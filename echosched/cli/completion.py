"""Completions for bash, zsh and fish, made from the usage texts: what ``--help`` shows is what the shell offers.

The texts are read once into a small tree (commands, their options, what each option and argument takes), and one
writer for each shell prints it. Names of jobs are asked from ``echoschedd jobs`` of the instance that the command line
names, at the moment they are wanted.
"""

from __future__ import annotations

import re
import sys

from echosched.cli.usage import COMMON, TOP, USAGE
from echosched.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "echoschedd"

_OPTION = re.compile(r"^  ((?:-\w )?(?:--[a-z][a-z-]*|-\w))(?: ([A-Z]+))?\s{2,}(.*)$", re.MULTILINE)
_COMMAND = re.compile(r"^  ([a-z][a-z-]*)\s{2,}(\S.*)$", re.MULTILINE)
_ARGUMENT = re.compile(r"<(\w+)>")

# What the words of the texts stand for. Everything else is free text, and nothing is offered for it.
_Kind = str | list[str]
_KINDS: dict[str, _Kind] = {
    "DIR": "directory",
    "FILE": "file",
    "file": "file",
    "JOB": "job",
    "job": "job",
    "S": ("queued running succeeded failed timed_out cancelled skipped missed abandoned").split(),
    "RULE": ["once", "skip", "every"],
    "shell": list(SHELLS),
    "verb": ["start", "stop", "restart", "status", "logs"],
    "which": ["all", "scheduler", "web"],
    "action": ["status", "drain", "remove"],
}


class Option:
    """One option: its spellings, the name of its value if it takes one, and what it does."""

    __slots__ = ("names", "text", "value")

    def __init__(self, names: list[str], value: str, text: str) -> None:
        self.names = names
        self.value = value
        self.text = text


def options_of(text: str) -> list[Option]:
    """Return the options that a usage text describes, in its order."""
    return [Option(names.split(), value, said) for names, value, said in _OPTION.findall(text)]


def commands() -> dict[str, str]:
    """Return command → what it does, as the top-level text has them."""
    return {name: said for name, said in _COMMAND.findall(TOP) if name in USAGE}


def arguments_of(command: str) -> list[str]:
    """Return the names of the arguments that a command takes, in order."""
    usage = USAGE[command].split("Usage:\n", 1)[1].split("\n\n", 1)[0]
    return _ARGUMENT.findall(usage.splitlines()[0])


def script(shell: str) -> str:
    """Return the completion script for *shell*; raises ``UsageError`` for one that has none."""
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in writers:
        raise UsageError(f"completion: {shell}: unknown shell (one of {', '.join(SHELLS)})")
    return writers[shell]()


def completion(arguments: dict[str, Any]) -> int:
    """Print the completion script for the shell that the command line names."""
    sys.stdout.write(script(arguments["<shell>"]))
    return 0


def _kind(name: str) -> _Kind:
    """Return what may stand for a value: file, directory, job, a list of words, or nothing known."""
    return _KINDS.get(name, "")


def _positions(command: str) -> list[_Kind]:
    return [_kind(name) for name in arguments_of(command)]


# ── bash ──────────────────────────────────────────────────────────────────────────────────────

_BASH = r"""# bash completion for echoschedd; made by: echoschedd completion bash

_echoschedd_jobs()
{
    # The instance is the one that this very command line names.
    local i where=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            @WHERE@) where+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
        esac
    done
    "${COMP_WORDS[0]}" jobs --json "${where[@]}" 2>/dev/null |
        command grep -o '"name": *"[^"]*"' | command cut -d'"' -f4
}

_echoschedd()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= i position=0
    COMPREPLY=()
    # The command is the first word that is neither an option nor an option's value.
    for ((i = 1; i < COMP_CWORD; i++)); do
        case $command:${COMP_WORDS[i]} in
@VALUED@
            *:-*) ;;
            :*) command=${COMP_WORDS[i]} ;;
            *) ((position++)) ;;
        esac
    done
    local offer= kind=
    case $command:$prev in
@VALUES@
    esac
    if [[ -z $kind ]]; then
        case $command in
            "")
                kind=words
                if [[ $cur == -* ]]; then offer="@TOPOPTIONS@"; else offer="@COMMANDS@"; fi
                ;;
@COMMANDCASES@
        esac
    fi
    case $kind in
        file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null ;;
        directory) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null ;;
        job) mapfile -t COMPREPLY < <(compgen -W "$(_echoschedd_jobs)" -- "$cur") ;;
        words) mapfile -t COMPREPLY < <(compgen -W "$offer" -- "$cur") ;;
    esac
}

complete -F _echoschedd echoschedd
"""


def _bash() -> str:
    common = [option for option in options_of(COMMON) if option.value]
    where = "|".join(name for option in common for name in option.names)
    valued = [f"            {_bash_pattern('*', common)}) ((i++)) ;;"]
    values = [f"        {_bash_value('*', option)}" for option in common]
    cases = []
    for command in USAGE:
        options = options_of(USAGE[command])
        own = [option for option in options if option.value and option.names[0] not in where.split("|")]
        if own:
            valued.append(f"            {_bash_pattern(command, own)}) ((i++)) ;;")
        values += [f"        {_bash_value(command, option)}" for option in own]
        cases.append(_bash_command(command, options))
    return (
        _BASH.replace("@WHERE@", where)
        .replace("@VALUED@", "\n".join(valued))
        .replace("@VALUES@", "\n".join(values))
        .replace("@TOPOPTIONS@", _names(options_of(TOP)))
        .replace("@COMMANDS@", " ".join(commands()))
        .replace("@COMMANDCASES@", "\n".join(cases))
    )


def _bash_pattern(command: str, options: list[Option]) -> str:
    return "|".join(f"{command}:{name}" for option in options for name in option.names)


def _bash_value(command: str, option: Option) -> str:
    patterns = _bash_pattern(command, [option])
    kind = _kind(option.value)
    if isinstance(kind, list):
        return f'{patterns}) kind=words offer="{" ".join(kind)}" ;;'
    return f"{patterns}) kind={kind or 'none'} ;;"


def _bash_command(command: str, options: list[Option]) -> str:
    lines = [f"            {command})"]
    lines.append(f'                if [[ $cur == -* ]]; then kind=words offer="{_names(options)}"')
    for number, kind in enumerate(_positions(command)):
        words = " ".join(kind) if isinstance(kind, list) else ""
        chosen = f'kind=words offer="{words}"' if words else f"kind={kind or 'none'}"
        lines.append(f"                elif ((position == {number})); then {chosen}")
    lines += ["                fi", "                ;;"]
    return "\n".join(lines)


def _names(options: list[Option]) -> str:
    return " ".join(name for option in options for name in option.names)


# ── zsh ───────────────────────────────────────────────────────────────────────────────────────

_ZSH = r"""#compdef echoschedd
# zsh completion for echoschedd; made by: echoschedd completion zsh

_echoschedd_jobs() {
    local -a where names
    local i
    for ((i = 2; i < CURRENT; i++)); do
        case $words[i] in
            @WHERE@) where+=("$words[i]" "${(Q)words[i+1]}") ;;
        esac
    done
    names=(${(f)"$(echoschedd jobs --json $where 2>/dev/null |
        command grep -o '"name": *"[^"]*"' | command cut -d'"' -f4)"})
    compadd -a names
}

_echoschedd() {
    local curcontext=$curcontext state line
    local -a commands
    typeset -A opt_args
    commands=(
@COMMANDS@
    )
    _arguments -C -A '-*' \
@TOPOPTIONS@
        '1:command:->command' \
        '*::argument:->arguments'
    case $state in
        command) _describe command commands ;;
        arguments)
            case $words[1] in
@COMMANDCASES@
            esac
            ;;
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _echoschedd "$@"
else
    compdef _echoschedd echoschedd
fi
"""


def _zsh() -> str:
    where = "|".join(name for option in options_of(COMMON) for name in option.names if option.value)
    listed = "\n".join(
        f"        {_quoted(_zsh_plain(name) + ':' + said)}" for name, said in commands().items()
    )
    tops = "\n".join(f"        {spec} \\" for option in options_of(TOP) for spec in _zsh_option(option))
    cases = []
    for command in USAGE:
        specs = [spec for option in options_of(USAGE[command]) for spec in _zsh_option(option)]
        specs += [
            _quoted(f"{number}:{_zsh_action(kind)}") for number, kind in enumerate(_positions(command), 1)
        ]
        body = " \\\n                        ".join(["_arguments", *specs])
        cases.append(f"                {command})\n                    {body}\n                    ;;")
    return (
        _ZSH.replace("@WHERE@", where)
        .replace("@COMMANDS@", listed)
        .replace("@TOPOPTIONS@", tops)
        .replace("@COMMANDCASES@", "\n".join(cases))
    )


def _zsh_plain(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_option(option: Option) -> list[str]:
    """Return the specification of each spelling; one excludes the others."""
    others = "(" + " ".join(option.names) + ")" if len(option.names) > 1 else ""
    value = f":{_zsh_action(_kind(option.value), option.value)}" if option.value else ""
    return [_quoted(f"{others}{name}[{_zsh_plain(option.text)}]{value}") for name in option.names]


def _zsh_action(kind: _Kind, name: str = "") -> str:
    actions = {"file": "file:_files", "directory": "directory:_files -/", "job": "job:_echoschedd_jobs"}
    if isinstance(kind, list):
        return f"{name.lower() or 'word'}:({' '.join(kind)})"
    return actions.get(kind, f"{name.lower() or 'argument'}: ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ── fish ──────────────────────────────────────────────────────────────────────────────────────

_FISH = r"""# fish completion for echoschedd; made by: echoschedd completion fish

function __echoschedd_words
    # The words before the cursor without options and their values: the command and its arguments.
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip -eq 1
            set skip 0
            continue
        end
        switch $word
            case @VALUED@
                set skip 1
            case '-*'
            case '*'
                echo -- $word
        end
    end
end

function __echoschedd_at
    # Is the cursor at argument number argv[2] of command argv[1]?
    set -l words (__echoschedd_words)
    test "$words[1]" = $argv[1]; and test (count $words) -eq $argv[2]
end

function __echoschedd_in
    set -l words (__echoschedd_words)
    test "$words[1]" = $argv[1]
end

function __echoschedd_bare
    test (count (__echoschedd_words)) -eq 0
end

function __echoschedd_jobs
    set -l words (commandline -opc)
    set -l where
    for i in (seq 2 (math (count $words) - 1))
        if contains -- $words[$i] @WHERE@
            set -a where $words[$i] $words[(math $i + 1)]
        end
    end
    $words[1] jobs --json $where 2>/dev/null | command grep -o '"name": *"[^"]*"' | command cut -d'"' -f4
end

complete -c echoschedd -f
"""


def _fish() -> str:
    where = " ".join(name for option in options_of(COMMON) for name in option.names if option.value)
    every = [option for command in USAGE for option in options_of(USAGE[command])]
    valued = list(dict.fromkeys(name for option in every for name in option.names if option.value))
    lines = [_FISH.replace("@WHERE@", where).replace("@VALUED@", " ".join(valued))]
    for name, said in commands().items():
        lines.append(f"complete -c {PROGRAM} -n __echoschedd_bare -a {name} -d {_fish_quoted(said)}\n")
    lines += [_fish_option("__echoschedd_bare", option) for option in options_of(TOP)]
    for command in USAGE:
        lines += [
            _fish_option(f"'__echoschedd_in {command}'", option) for option in options_of(USAGE[command])
        ]
        for number, kind in enumerate(_positions(command), 1):
            if kind:
                lines.append(
                    f"complete -c {PROGRAM} -n '__echoschedd_at {command} {number}' {_fish_offer(kind)}\n"
                )
    return "".join(lines)


def _fish_option(condition: str, option: Option) -> str:
    spelled = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
    takes = ""
    if option.value:
        takes = " -x " + _fish_offer(_kind(option.value)) if _kind(option.value) else " -x"
    return f"complete -c {PROGRAM} -n {condition} {spelled}{takes} -d {_fish_quoted(option.text)}\n"


def _fish_offer(kind: _Kind) -> str:
    if isinstance(kind, list):
        return f"-a '{' '.join(kind)}'"
    return {
        "file": "-a '(__fish_complete_path (commandline -ct))'",
        "directory": "-a '(__fish_complete_directories (commandline -ct))'",
        "job": "-a '(__echoschedd_jobs)'",
    }[kind]


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

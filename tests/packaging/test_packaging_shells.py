"""The completions that the package installs, asked by zsh and fish themselves, in a root that has them."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import lab
import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.root, pytest.mark.timeout(1800)]

# zsh's own machinery runs at a (pseudo-)terminal only. compadd is where all offers pass through. Words are cut in
# two where the terminal's echo of a command must not be taken for what it prints.
ZSH = r"""
zmodload zsh/zpty
zpty it zsh -f -i
reply() { local line; while zpty -r it line; do [[ $line == *$1* ]] && return; done }
zpty -w it 'PS1=; PATH=/shells/bin:$PATH; fpath=(/shells/site $fpath); autoload -Uz compinit; compinit -u -D'
zpty -w it 'compadd() { local -a hits; if [[ " $* " == *" -[OAD] "* ]]; then builtin compadd "$@"; return; fi
  builtin compadd -A hits "$@"; print -r -l -- "off""er<"$^hits">"; builtin compadd "$@" }'
zpty -w it 'ask() { zle complete-word; print -r -- "that was ""all" }; zle -N ask; bindkey "^T" ask'
zpty -w it 'print read""y'
reply ready
zpty -w -n it "$1"$'\C-t'
local line
while zpty -r it line; do
  [[ $line == *"that was all"* ]] && break
  [[ $line == *"offer<"*">"* ]] && print -r -- ${${line##*offer<}%%>*}
done
zpty -d it
"""


def cases() -> list[Any]:
    """The questions that the unit tests ask bash."""
    path = lab.SOURCE / "tests/unit/packaging/test_packaging_completion.py"
    spec = importlib.util.spec_from_file_location("completion_questions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    questions: list[Any] = module.CASES
    return questions


@pytest.fixture(scope="module")
def shells(build_root: lab.Chroot, debs: list[Path]) -> lab.Chroot:
    """The completion files out of the package, and a program that answers for jobs."""
    place = build_root.place / "shells"
    (place / "bin").mkdir(parents=True)
    (place / "deb").mkdir()
    (place / "echosched.deb").write_bytes(debs[0].read_bytes())
    build_root.run(
        "dpkg-deb -x /shells/echosched.deb /shells/deb; ln -s deb/usr/share/zsh/vendor-completions /shells/site;"
        " ln -s deb/usr/share/fish/vendor_completions.d /shells/fish;"
        " ln -s deb/usr/share/bash-completion/completions /shells/bash"
    )
    names = json.dumps([{"name": "backup"}, {"name": "brief"}])
    other = json.dumps([{"name": "elsewhere"}])
    program = place / "bin/echoschedd"
    program.write_text(f"#!/bin/sh\ncase \"$*\" in *--home*) echo '{other}' ;; *) echo '{names}' ;; esac\n")
    program.chmod(0o755)
    (place / "ask.zsh").write_text(ZSH)
    return build_root


def fish(shells: lab.Chroot, line: str) -> set[str]:
    ask = f"set PATH /shells/bin $PATH; source /shells/fish/echoschedd.fish; complete --do-complete {shlex.quote(line)}"
    done = shells.run(f"HOME=/tmp fish --no-config -c {shlex.quote(ask)}")
    assert done.err == ""
    return {offer.split("\t")[0] for offer in done.out.splitlines()}


def zsh(shells: lab.Chroot, line: str) -> set[str]:
    done = shells.run(f"mount -t devpts devpts /dev/pts; zsh -f /shells/ask.zsh {shlex.quote(line)}")
    return {offer.strip() for offer in done.out.splitlines() if offer.strip()}


@pytest.mark.parametrize(("line", "offered", "withheld"), cases())
def test_fish_offers_what_fits(shells: lab.Chroot, line: str, offered: set[str], withheld: set[str]) -> None:
    found = fish(shells, line)
    assert offered <= found
    assert not withheld & found


@pytest.mark.parametrize(("line", "offered", "withheld"), cases())
def test_zsh_offers_what_fits(shells: lab.Chroot, line: str, offered: set[str], withheld: set[str]) -> None:
    found = zsh(shells, line)
    assert offered <= found
    assert not withheld & found


def test_bash_loads_the_installed_file_without_a_word(shells: lab.Chroot) -> None:
    done = shells.run("bash --norc -c 'source /shells/bash/echoschedd && complete -p echoschedd'")
    assert done.out.strip() == "complete -F _echoschedd echoschedd"
    assert done.err == ""

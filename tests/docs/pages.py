"""Pages whose commands are run again: how they are read, and what may differ.

On a page

- a ```` ```console ```` block holds ``$ commands`` and what they print (`` ```text `` blocks are never run);
- a block whose first line is a comment with nothing but a file's name (``# echosched.toml``,
  ``# jobs.d/more.toml``, ``# jobs.py``) is that file, in the directory that the commands run in;
- a line of output that is ``…`` stands for any lines, ``…`` inside a line for any text;
- instants, lengths of time, sizes and numbers of more than one digit may be others than on the page; exit codes
  and numbers that stand alone may not.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from echosched.config.load import load
from echosched.config.paths import resolve_paths
from echosched.errors import ConfigError
from echosched.protocols import Schedule

BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.\w+|[\w./-]*crontab)\n")
START = re.compile(r"\bechoschedd (?:service )?(?:start|--foreground)\b")
ANY = "…"
PATIENCE_SECONDS = 240.0
QUIET_SECONDS = 20.0


class Example(NamedTuple):
    """A command and what the page says it prints; *line* is where it stands."""

    line: int
    command: str
    shown: list[str]


class File(NamedTuple):
    """A file that the page gives."""

    line: int
    name: str
    text: str


def read(page: Path) -> list[Example | File]:
    """Return what *page* holds, in order."""
    text = page.read_text("utf-8")
    found: list[Example | File] = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        named = FILE.match(match[2])
        if match[1] == "console":
            found += _examples(match[2], line)
        elif named:
            found.append(File(line, named[1], match[2]))
    return found


def examples(page: Path) -> list[Example]:
    """Return the commands of *page*."""
    return [item for item in read(page) if isinstance(item, Example)]


def _examples(block: str, first: int) -> list[Example]:
    found: list[Example] = []
    more = False
    for number, line in enumerate(block.rstrip("\n").split("\n"), first):
        if line.startswith("$ "):
            found.append(Example(number, line[2:], []))
        elif more or line.startswith("> "):
            last = found[-1]
            found[-1] = last._replace(command=last.command + "\n" + line.removeprefix("> "))
        else:
            found[-1].shown.append(line)
        more = line.endswith("\\") and not found[-1].shown
    return found


# ── comparing ─────────────────────────────────────────────────────────────────────────────────

_UNIT = r"(?:ms|kB|MB|GB|[smhdwB])(?![A-Za-z])"
_LOOSE = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[+-]\d\d:\d\d)?)?"), "DATE"),
    (re.compile(rf"\d+(?:\.\d+)? ?{_UNIT}(?: ?\d+ ?{_UNIT})*"), "LENGTH"),
    # One digit counts (runs, restarts, jobs); so does an exit code. What is longer is a pid or the like.
    (re.compile(r"(?<!exit code )(?<!\d)\d[\d.:]+(?<=\d)"), "NUMBER"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"─+"), "─"),
)


def loose(line: str) -> str:
    """Return *line* without what differs from run to run; a number that is all of a line is meant."""
    if line.strip().isdigit():
        return line.strip()
    for pattern, instead in _LOOSE:
        line = pattern.sub(instead, line)
    return line.strip()


def mismatch(shown: list[str], said: list[str]) -> str | None:
    """Return why *said* is not what the page has *shown*, ``None`` if it is."""
    pattern = ""
    for line in shown:
        if line.strip() == ANY:
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*".join(re.escape(loose(part)) for part in line.split(ANY)) + "\n"
    text = "".join(loose(line) + "\n" for line in said)
    # White space beside an ellipsis was stripped from its parts, so it must not count here either.
    pattern = re.sub(r"(?:\\ )?\[\^\n\]\*(?:\\ )?", "[^\n]*", pattern)
    if re.fullmatch(pattern, text):
        return None
    return f"the page says:\n{chr(10).join(shown)}\nbut it says:\n{chr(10).join(said)}"


# ── running ───────────────────────────────────────────────────────────────────────────────────


class Shell:
    """One shell for one page, in *directory*; closes with everything that its commands left running."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._mark = f"--end-{os.urandom(6).hex()}--"
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._buffer = b""

    def run(self, command: str) -> list[str]:
        """Run *command*; return the lines that it printed."""
        assert self._process.stdin is not None
        # Braces, not a subshell: variables and the directory stay; and $? stays over the mark, for `echo $?`.
        script = f"{{ {command}\n}} </dev/null; code=$?; echo '{self._mark}'; (exit $code)\n"
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()
        return self._until_mark(command)

    def _until_mark(self, command: str) -> list[str]:
        assert self._process.stdout is not None
        mark = f"{self._mark}\n".encode()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while mark not in self._buffer:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._process.stdout], [], [], left)[0]
            assert ready, (
                f"$ {command}\nhas not ended after {PATIENCE_SECONDS:.0f} s:\n{self._buffer.decode()}"
            )
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, f"$ {command}\nended the shell:\n{self._buffer.decode()}"
            self._buffer += data
        said, _, self._buffer = self._buffer.partition(mark)
        return said.decode("utf-8", "replace").splitlines()

    def close(self) -> None:
        """End the shell and what still belongs to its session."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def until_quiet(schedules: list[Schedule], now: datetime) -> timedelta:
    """Return how long after *now* no slot is near, as far as that can be.

    Pages count runs; a slot that comes due between two commands is one run more than they show.
    """
    wait = timedelta(0)
    for schedule in schedules:
        slot = schedule.next_after(now)
        after = None if slot is None else schedule.next_after(slot)
        if slot is None or after is None or after - slot < timedelta(seconds=5):
            continue  # once, or too often for a page to count on its absence
        near = min(timedelta(seconds=QUIET_SECONDS), (after - slot) * 0.9)
        if slot - now < near:
            wait = max(wait, slot - now + timedelta(seconds=0.1))
    return wait


def _schedules(directory: Path) -> list[Schedule]:
    try:
        config = load(paths=resolve_paths(str(directory), environ={}))
    except ConfigError:
        return []  # some pages show what that looks like
    return [job.schedule for job in config.jobs.values() if job.schedule is not None]


def replay(page: Path, directory: Path, shell: Shell) -> Iterator[str]:
    """Write the files and run the commands of *page*; yield what differs, with the line."""
    for item in read(page):
        if isinstance(item, File):
            place = directory / item.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(item.text)
            place.chmod(0o640)
            continue
        if START.search(item.command):
            time.sleep(until_quiet(_schedules(directory), datetime.now(UTC)).total_seconds())
        wrong = mismatch(item.shown, shell.run(item.command))
        if wrong is not None:
            yield f"{page.name}:{item.line}: $ {item.command}\n{wrong}"

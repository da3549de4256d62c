"""The crontab language, line by line. Pure: text in, values out.

What a line means follows Vixie cron as Debian ships it, with cronie's CRON_TZ, RANDOM_DELAY and ``~`` ranges:

- a setting (``NAME = value``) is in force for the lines below it; quotes around name or value are taken off, nothing
  is expanded; a ``#`` opens a comment only at the beginning of a line;
- the first ``%`` of a command that has no backslash in front ends it; what follows is the program's standard
  input, where further ones are line ends; ``\\%`` is a percent sign.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

Settings = tuple[tuple[str, str], ...]
"""The settings in force, in the order of their names."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SETTING = re.compile(
    r"""(?:"([^"]*)"|'([^']*)'|([A-Za-z_][A-Za-z0-9_]*))\s*=\s*(.*)$""", re.DOTALL | re.ASCII
)
_FIELD_RANGES = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
_HEADER = re.compile(r"\W*(m|min|minute)s?\W+(h|hour)s?\W+", re.IGNORECASE)
_JOB_LIKE = re.compile(r"(?:[\d*][\d*/,-]*\s+){4}|@[a-z]+\s", re.ASCII)
_LONGEST_DESCRIPTION = 200


class Line(NamedTuple):
    """A line that starts something: *settings* are those in force, *description* the comment right above."""

    number: int
    text: str
    settings: Settings
    description: str


def walk(lines: Iterable[str]) -> Iterator[Line]:
    """Yield the job lines of a crontab, right or wrong, with what the lines above say about them.

    *lines* must be cut at newlines only: ``str.splitlines`` would cut commands at form feeds and other rarities.
    """
    settings: Settings = ()
    comments: list[str] = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line:
            comments = []
        elif line[0] == "#":
            comments.append(line)
        elif "=" in line and (setting := read_setting(line)) is not None:
            settings = tuple(sorted({**dict(settings), setting[0]: setting[1]}.items()))
            comments = []
        else:
            yield Line(number, line, settings, describe(comments) if comments else "")
            comments = []


def read_setting(line: str) -> tuple[str, str] | None:
    """Return (name, value) of a setting, ``None`` for any other line."""
    match = _SETTING.match(line)
    if match is None:
        return None
    name = match[1] or match[2] or match[3]
    if not name or not _NAME.fullmatch(name):
        return None
    value = match[4].strip()
    if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]:
        value = value[1:-1]
    return name, value


def describe(comments: list[str]) -> str:
    """Return what a block of comment lines says about the job below it.

    Column headings (``# m h dom mon dow command``), rulers and jobs that were commented out say nothing; of a
    long block only the last paragraph is about the job.
    """
    words: list[str] = []
    for comment in comments:
        said = comment.strip("#").strip()
        if not any(c.isalnum() for c in said) or _HEADER.match(said) or _JOB_LIKE.match(said):
            words = []
        else:
            words.append(said)
    description = " ".join(words)
    description = "".join(c if c.isprintable() else " " for c in description)
    if len(description) > _LONGEST_DESCRIPTION:
        description = description[: _LONGEST_DESCRIPTION - 1].rstrip() + "…"
    return description


def split_line(line: str, *, system: bool) -> tuple[str, str | None, str]:
    """Return (schedule, user or ``None``, command with its percent signs) of a job line.

    Raises ``ValueError`` with the reason when something is missing.
    """
    if line[0] == "-" and line[1:2] not in ("", " ", "\t"):
        line = line[1:]  # "do not log this one to syslog"
    count = 1 if line[0] == "@" else 5
    parts = line.split(None, count + 1 if system else count)
    if len(parts) < count + 1:
        if count == 1:
            raise ValueError(f"nothing follows {parts[0]}")
        raise ValueError(f"a job has 5 time fields and a command: only {len(parts)} of 6 words")
    if not system:
        return (parts[0] if count == 1 else " ".join(parts[:5])), None, parts[count]
    if len(parts) < count + 2:
        raise ValueError("a line of a system crontab has a user and a command after its times")
    return (parts[0] if count == 1 else " ".join(parts[:5])), parts[count], parts[count + 1]


def split_command(command: str) -> tuple[str, str | None]:
    """Return (command line, standard input or ``None``) of a command with percent signs."""
    if "%" not in command:
        return command, None
    shell: list[str] = []
    escaped = False
    end = len(command)
    for position, character in enumerate(command):
        if character == "%":
            if not escaped:
                end = position
                break
            shell[-1] = "%"  # the backslash before it goes
            escaped = False
            continue
        escaped = character == "\\" and not escaped
        shell.append(character)
    if end == len(command):
        return "".join(shell), None
    given = re.sub(r"\\(%)|%", lambda match: match[1] or "\n", command[end + 1 :])
    if given and not given.endswith("\n"):
        given += "\n"
    return "".join(shell).rstrip(), given or None


def random_ranges(schedule: str) -> str:
    """Return *schedule* with cronie's random ranges (``0~30``) as ``H(0-30)``: chosen by name, not at each start."""
    fields = schedule.split()
    for index, (field, bounds) in enumerate(zip(fields, _FIELD_RANGES, strict=False)):
        if "~" in field:
            fields[index] = ",".join(_hashed(item, *bounds) for item in field.split(","))
    return " ".join(fields)


def _hashed(item: str, low: int, high: int) -> str:
    body, slash, step = item.partition("/")
    first, tilde, last = body.partition("~")
    return f"H({first or low}-{last or high}){slash}{step}" if tilde else item


# ── names ─────────────────────────────────────────────────────────────────────────────────────

# What comes before the program that a line is about.
_WRAPPERS = re.compile(
    r"""(?:cd\s+\S+\s*(?:&&|;)\s*
       |(?:test|\[)\s+-\w\s+\S+\s*\]?\s*(?:&&|\|\|)\s*(?:[{(]\s*)?
       |(?:command\s+-v|which)\s+\S+\s*(?:>\s*\S+\s*)?(?:2>\S+\s*)?&&\s*
       |if\s+\[[^]]*\]\s*;\s*then\s+
       |(?:/\S*/)?(?:exec|nohup|chronic|sudo|setsid|env|time)\s+(?:-\S+\s+)*
       |(?:/\S*/)?flock\s+(?:-\S+\s+(?:\d+\s+)?)*\S+\s+
       |(?:/\S*/)?(?:nice|ionice|timeout|sleep)\s+(?:-\S+\s+|[\d.]+[smhd]?\s+)*(?:;\s*|&&\s*)?
       |[A-Za-z_]\w*=(?:"[^"]*"|'[^']*'|[^\s"'])*\s+)+""",
    re.VERBOSE | re.ASCII,
)
_END = re.compile(r"[|;&<>]")
_DIRECTORIES = re.compile(r"(?:[^\s/\"'=]*/)+(?=[^\s/])")
_OTHERS = re.compile(r"[^a-z0-9_]+")
_LONGEST_SLUG = 48
_LOOKED_AT = 300  # characters; patterns that backtrack must not meet lines of a megabyte


def slug(command: str) -> str:
    """Return a job name made of a command: its program and arguments, without directories and punctuation.

    Depends on the command alone, so a job keeps its name whatever happens to other lines.
    """
    start = command[:_LOOKED_AT]
    match = _WRAPPERS.match(start)
    rest = start[match.end() :] if match is not None else start
    rest = _END.split(rest, maxsplit=1)[0] or rest
    program, space, arguments = rest.partition(" ")
    if "/" in arguments or "\t" in program:
        rest = _DIRECTORIES.sub("", rest)
    elif "/" in program:
        rest = program.rpartition("/")[2] + space + arguments
    name = _OTHERS.sub("-", rest.lower()).strip("-_")
    if len(name) > _LONGEST_SLUG:
        name = name[:_LONGEST_SLUG].rpartition("-")[0] or name[:_LONGEST_SLUG]
        name = name.strip("-_")
    return name or "job"


class Names:
    """Gives each job a name of its own: one that is not in any of *taken* (the caller adds what it was given)."""

    def __init__(self, *taken: Container[str]) -> None:
        self._taken = taken
        self._counts: dict[str, int] = {}

    def give(self, base: str, line: str) -> str:
        """Return *base* if it is free, else *base* with a number made of the line itself.

        Counting up instead would rename jobs (and cut them off from their history) when a line is added above.
        """
        if self.is_free(base):
            return base
        number = crc32(line.encode("utf-8", "surrogateescape"))
        name = f"{base}-{number % 10_000:04d}"
        if self.is_free(name):
            return name
        name = long = f"{base}-{number:010d}"
        count = self._counts.get(long, 1)
        while not self.is_free(name):
            count += 1
            name = f"{long}-{count}"
        self._counts[long] = count
        return name

    def is_free(self, name: str) -> bool:
        """Tell whether nobody has *name*."""
        for taken in self._taken:
            if name in taken:
                return False
        return True

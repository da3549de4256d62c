"""A crontab as TOML: what ``import-crontab`` prints. It loads back to the same jobs that the crontab itself gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from echosched.config.crontab import (
    Line,
    Names,
    Settings,
    random_ranges,
    slug,
    split_command,
    split_line,
    walk,
)
from echosched.config.crontab_files import Surroundings, mail_of, system_timezone
from echosched.config.jobs import JobReader, reason_of
from echosched.config.values import Problems, shown
from echosched.errors import ConfigError, ScheduleError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def import_crontab(
    text: str, system: bool = False, *, timezone: str | None = None, name: str = "crontab"
) -> str:
    """Return the TOML of a user's crontab, or of a *system* one (with a user on each line).

    *timezone* is where cron ran (default: this machine's zone); *name* stands in messages. Comments at the top say
    what means something else here. Raises ``ConfigError`` with every line that cannot be understood.
    """
    problems = Problems()
    jobs = list(_jobs(text, system, timezone or system_timezone(), name, problems))
    if problems.lines:
        raise ConfigError(problems.lines)
    return _document(jobs, timezone or system_timezone(), system=system, text=text)


class _Job:
    """One job line taken apart: *keys* are those of its TOML table that settings above it decide."""

    def __init__(
        self, name: str, line: Line, schedule: str, user: str | None, command: str, stdin: str | None
    ) -> None:
        self.name = name
        self.line = line
        self.schedule = schedule
        self.user = user
        self.command = command
        self.stdin = stdin
        self.keys = _settings_keys(line.settings)


def _jobs(text: str, system: bool, zone: str, place: str, problems: Problems) -> Iterator[_Job]:
    # The account is not looked up: a crontab may come from another machine.
    reader = JobReader(problems, uid=0, stays_root=True)
    taken: set[str] = set()
    names = Names(taken)
    known: dict[Settings, Surroundings] = {}
    for line in walk(text.split("\n")):
        try:
            line.text.encode()
            if "\0" in line.text:
                raise ValueError("holds a NUL character")
            schedule, user, rest = split_line(line.text, system=system)
            around = known.get(line.settings)
            if around is None:
                around = known[line.settings] = Surroundings(line.settings, None, reader, {}, zone, ())
            command, stdin = split_command(rest)
            if not command:
                raise ValueError("a job has 5 time fields and a command")
            name = names.give(slug(command), line.text)
            around.schedule(schedule, name)
        except UnicodeEncodeError:
            problems.add(f"{place}:{line.number}", "", "is not UTF-8 text")
        except ScheduleError as error:
            reason = reason_of(error, schedule, random_ranges(schedule))
            problems.add(f"{place}:{line.number}", "", f"{shown(schedule)}: {reason}")
        except ValueError as error:
            problems.add(f"{place}:{line.number}", "", str(error))
        else:
            taken.add(name)
            yield _Job(
                name, line, random_ranges(schedule) if "~" in schedule else schedule, user, command, stdin
            )


def _settings_keys(settings: Settings) -> dict[str, str]:
    """Return the job keys (as TOML values) that settings stand for."""
    given = dict(settings)
    keys: dict[str, str] = {}
    if "CRON_TZ" in given:
        keys["timezone"] = _string(given["CRON_TZ"])
    if given.get("HOME"):
        keys["cwd"] = _string(given["HOME"])
    environment = {
        k: v for k, v in given.items() if k not in ("MAILTO", "MAILFROM", "CRON_TZ", "RANDOM_DELAY")
    }
    if environment:
        inside = ", ".join(f"{_key(k)} = {_string(v)}" for k, v in sorted(environment.items()))
        keys["env"] = "{ " + inside + " }"
    if (given.get("SHELL") or "/bin/sh") != "/bin/sh":
        keys["shell"] = _string(given["SHELL"])
    if given.get("RANDOM_DELAY", "0") != "0":
        keys["jitter"] = _string(f"{int(given['RANDOM_DELAY'])}m")
    mail = mail_of(settings)
    if mail is not None:
        keys["notify"] = f"[{_string(mail.name)}]"
    return keys


# ── TOML ──────────────────────────────────────────────────────────────────────────────────────


def _document(jobs: list[_Job], zone: str, *, system: bool, text: str) -> str:
    common = dict(jobs[0].keys) if jobs else {}
    for job in jobs[1:]:
        common = {key: value for key, value in common.items() if job.keys.get(key) == value}
    # A default cannot be taken back: only what every job has may stand there, and env is merged, not replaced.
    lines = [*_notes(jobs, text, system=system), "", f"timezone = {_string(zone)}", "", "[defaults]"]
    lines.append('timeout = "0"          # cron lets jobs run for ever')
    if "cwd" not in common:
        lines.append('cwd = "~"              # and starts them in the home directory')
    lines += [f"{key} = {value}" for key, value in common.items()]
    for mail in {job.line.settings: mail_of(job.line.settings) for job in jobs}.values():
        if mail is not None and (head := f"[notify.{_key(mail.name)}]") not in lines:
            lines += ["", head, 'kind = "mail"']
            lines.append("to = [" + ", ".join(_string(address) for address in mail.options["to"]) + "]")
            if "from" in mail.options:
                lines.append(f"from = {_string(mail.options['from'])}")
            lines += ['on = ["output"]', "default = false"]
    for job in jobs:
        lines += ["", f"[job.{_key(job.name)}]"]
        if job.line.description:
            lines.append(f"description = {_string(job.line.description)}")
        lines.append(f"schedule = {_string(job.schedule)}")
        lines.append(f"command = {_string(job.command)}")
        if job.stdin is not None:
            lines.append(f"stdin = {_string(job.stdin)}")
        if job.user is not None:
            lines.append(f"user = {_string(job.user)}")
        lines += [f"{key} = {value}" for key, value in job.keys.items() if key not in common]
    return "\n".join(lines) + "\n"


def _notes(jobs: list[_Job], text: str, *, system: bool) -> list[str]:
    """Return comment lines about what means something else here."""
    settings = {name: value for job in jobs for name, value in job.line.settings}
    notes = [
        'cron starts a job again while it still runs; here that slot is skipped (overlap = "allow": as cron)',
        'cron forgets what it missed while it was off; here the newest missed slot is run (catchup = "none": as cron)',
    ]
    unmailed = [job for job in jobs if "MAILTO" not in dict(job.line.settings)]
    if unmailed:
        notes.append("without MAILTO cron mails output to the owner; here it is kept: echoschedd output RUN")
    if any("~" in job.line.text.split("/")[0][:60] and "H(" in job.schedule for job in jobs):
        notes.append(
            "a random range (0~30) is chosen anew at each start of cron; here by the job's name, for good"
        )
    if "RANDOM_DELAY" in settings:
        notes.append(
            "RANDOM_DELAY is a different delay each day in cron; here jitter, the same for a job each day"
        )
    if any(job.schedule.lower() == "@reboot" for job in jobs):
        notes.append(
            "@reboot fires once per boot of the machine, not again when only the daemon is restarted"
        )
    if "TZ" in settings:
        notes.append(
            "TZ is handed to jobs and does not move their times, as in cron (CRON_TZ does, and timezone)"
        )
    if {"LOGNAME", "USER"} & set(settings):
        notes.append("cron does not let a crontab change LOGNAME; here the job gets the value written")
    if any(job.line.text.startswith("-") for job in jobs):
        notes.append("a leading - (no entry in syslog) has no meaning here")
    if system and any(job.user for job in jobs):
        notes.append("user needs a daemon that is run by root")
    head = f"# Imported from a crontab: {len(jobs)} job{'s' if len(jobs) != 1 else ''}. What means something else here:"
    return [head, *(f"# - {note}" for note in notes)]


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) is not None else json.dumps(name, ensure_ascii=False)


def _string(value: Any) -> str:
    """Return a TOML string; a literal one where that spares the reader backslashes."""
    text = str(value)
    if ('"' in text or "\\" in text) and "'" not in text and _UNSAFE.search(text) is None:
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

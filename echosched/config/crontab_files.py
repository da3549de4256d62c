"""Crontab files run as they are (``[daemon] crontabs``): lines → jobs, fast, and the same objects on a reload.

A hundred thousand lines are a normal size here, so each line costs one hash when it is unchanged, and otherwise
what its own text needs: everything that comes from settings (policy, process, zone, schedules) is made once for
each set of settings and shared.

Where cron and this program differ, a crontab's jobs are run as cron would as long as that is harmless: no time-out
(a long backup must not be killed because it moved house), the home directory as working directory, the system's
time zone unless the config names one. ``[defaults]`` overrides all of it.
"""

from __future__ import annotations

import gc
import glob
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from types import MappingProxyType
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
from echosched.config.digest import action_text, bundle_text, combine, timing_of
from echosched.config.files import ConfigFiles
from echosched.config.job_keys import OTHER_KEYS, PROCESS_KEYS
from echosched.config.jobs import JobReader, account_name, reason_of
from echosched.config.settings import NotifyConfig
from echosched.config.tables import addresses
from echosched.config.values import Reader, shown
from echosched.errors import ScheduleError
from echosched.model import CommandAction, Job
from echosched.protocols import Schedule
from echosched.schedule import parse_schedule

_TOLD_PROBLEMS = 50
_CRON_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)  # what cron reads in /etc/cron.d
_HASHED = re.compile(r"(?<![A-Za-z])H(?![A-Za-z])")


class Surroundings:
    """What the settings above a line and its user say: one object for all lines below the same settings."""

    def __init__(
        self,
        settings: Settings,
        user: str | None,
        reader: JobReader,
        defaults: Mapping[str, Any],
        zone: str,
        notify: tuple[str, ...],
    ) -> None:
        """Raise ``ValueError`` with the reason for a setting that cannot be followed."""
        given = dict(settings)
        values: dict[str, Any] = {"timeout": None, "cwd": "~", **defaults}
        if user is not None:
            values["user"] = user
        mail = mail_of(settings)
        if mail is not None:
            _follow("MAILTO", addresses, list(mail.options["to"]))
            values["notify"] = (*values.get("notify", notify), mail.name)
        given.pop("MAILTO", None)
        given.pop("MAILFROM", None)
        self.zone = given.pop("CRON_TZ", zone)
        if (wrong := reader.zone_problem(self.zone)) is not None:
            raise ValueError(f"CRON_TZ: {shown(self.zone)}: {wrong}")
        if "RANDOM_DELAY" in given:
            values["jitter"] = _minutes(given.pop("RANDOM_DELAY"))
        if given.get("HOME"):
            values["cwd"] = _follow("HOME", PROCESS_KEYS["cwd"], given["HOME"])
        if given:
            values["env"] = tuple(sorted({**dict(values.get("env", ())), **given}.items()))
        shell = values.get("shell")
        if given.get("SHELL"):
            shell = _follow("SHELL", OTHER_KEYS["shell"], given["SHELL"])
        self.shell = None if shell == "/bin/sh" else shell
        self.codes: tuple[int, ...] = values.get("success_codes", (0,))
        self.enabled: bool = values.get("enabled", True)
        self.dst = str(values.get("dst", "once"))
        self.policy, self.process = reader.policy(values), reader.process(values)
        self.bundle = bundle_text(self.policy, self.process)
        self.schedules: dict[str, tuple[Schedule, str, str]] = {}

    def schedule(self, text: str, name: str) -> tuple[Schedule, str, str]:
        """Return (schedule, text, digest of the timing) of a line's times; equal ones are shared."""
        found = self.schedules.get(text)
        if found is None:
            meant = random_ranges(text) if "~" in text else text
            schedule = parse_schedule(meant, self.zone, name=name, dst=self.dst)
            found = (schedule, meant, timing_of((meant,), self.zone, dst=self.dst))
            if "H" not in meant or _HASHED.search(meant) is None:
                self.schedules[text] = found
        return found


def mail_of(settings: Settings) -> NotifyConfig | None:
    """Return what stands for MAILTO: mail with the output of each run that printed something, as cron sends it."""
    given = dict(settings)
    wanted = tuple(dict.fromkeys(word for word in re.split(r"[,\s]+", given.get("MAILTO", "")) if word))
    if not wanted:
        return None
    name = "mailto-" + (re.sub(r"[^\w.@+-]+", "-", "-".join(wanted)).strip("-") or "nobody")[:90]
    options: dict[str, Any] = {
        "to": wanted,
        **({"from": given["MAILFROM"]} if given.get("MAILFROM") else {}),
    }
    return NotifyConfig(name, "mail", ("output",), default=False, options=MappingProxyType(options))


def system_timezone(environ: Mapping[str, str] | None = None) -> str:
    """Return the name of this machine's time zone, ``UTC`` where it cannot be told."""
    from echosched.schedule.zones import find_zone

    candidates = [(os.environ if environ is None else environ).get("TZ", "").removeprefix(":")]
    try:
        with open("/etc/timezone", encoding="ascii") as file:
            listed = file.readline().strip()
    except (OSError, UnicodeDecodeError):
        listed = ""
    # The link decides where both exist: it is what the C library follows.
    candidates += [os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2], listed]
    return next((name for name in candidates if name and find_zone(name) is not None), "UTC")


def _follow(name: str, reader: Reader, value: Any) -> Any:
    """Read a setting as the job key it stands for."""
    try:
        return reader(value)
    except ValueError as error:
        raise ValueError(f"{name}: {shown(value)}: {error}") from None


def _minutes(value: str) -> timedelta:
    if not value.isascii() or not value.isdigit() or int(value[:9]) > 1_440 * 31:
        raise ValueError(f"RANDOM_DELAY: {shown(value)}: must be a number of minutes")
    return timedelta(minutes=int(value))


# ── all crontabs of a configuration ───────────────────────────────────────────────────────────


def read_crontabs(
    wanted: tuple[tuple[str, bool | None], ...],
    *,
    files: ConfigFiles,
    reader: JobReader,
    defaults: Mapping[str, Any],
    zone: str | None,
    jobs: dict[str, Job],
    declared: Mapping[str, str],
    notify: dict[str, NotifyConfig],
    uid: int,
) -> None:
    """Add the jobs of the *wanted* crontabs (path or glob, system format) to *jobs*.

    Problems go to the reader's; *zone* ``None`` means the system's. Names that the TOML files use stay theirs.
    """
    tables = {name[len("job.") :] for name in declared if name.startswith("job.")}
    names = Names(jobs, tables)
    everyone = tuple(name for name, target in notify.items() if target.default)
    zone = system_timezone() if zone is None else zone
    collecting = gc.isenabled()
    # A hundred thousand new objects and not one piece of garbage: collecting in between costs a third of the time.
    gc.disable()
    try:
        for path, system in _expand(wanted, files):
            crontab = CrontabFile(path, system, files=files, reader=reader, uid=uid)
            crontab.load(jobs, names, defaults=defaults, zone=zone, notify=everyone)
            for name, target in crontab.mail.items():
                notify.setdefault(name, target)
    finally:
        if collecting:
            gc.enable()


def _expand(wanted: tuple[tuple[str, bool | None], ...], files: ConfigFiles) -> Iterator[tuple[str, bool]]:
    for pattern, system in wanted:
        full = os.path.join(os.path.dirname(files.main), os.path.expanduser(pattern))
        if not glob.has_magic(pattern):
            yield full, _is_system(full) if system is None else system
            continue
        for path in sorted(glob.glob(full)):
            # As cron does: left-overs of editors and package managers in a directory are no crontabs.
            if _CRON_NAME.fullmatch(os.path.basename(path)) is not None and os.path.isfile(path):
                yield path, _is_system(path) if system is None else system


def _is_system(path: str) -> bool:
    return path == "/etc/crontab" or os.path.dirname(path) == "/etc/cron.d"


# ── one file ──────────────────────────────────────────────────────────────────────────────────

# What each file's lines became at the last reading: hashes of the lines, and in the same order the jobs (for a job
# whose name had to be numbered, a pair with the name it would have had). 16 bytes a line, and a reload of an
# unchanged line costs one hash and gives the very same job.
_Kept = Job | tuple[str, Job]
_LAST: dict[str, tuple[array[int], list[_Kept]]] = {}


class CrontabFile:
    """One crontab file on its way to jobs."""

    def __init__(self, path: str, system: bool, *, files: ConfigFiles, reader: JobReader, uid: int) -> None:
        """Read nothing yet; *system* tells whether lines name a user."""
        self.path = path
        self.place = files.place(path)
        self.system = system
        self.mail: dict[str, NotifyConfig] = {}
        self._files = files
        self._reader = reader
        self._uid = uid
        self._me = account_name(uid)
        self._owner: str | None = None
        self._problems = 0

    def load(
        self,
        jobs: dict[str, Job],
        names: Names,
        *,
        defaults: Mapping[str, Any],
        zone: str,
        notify: tuple[str, ...],
    ) -> None:
        """Add the file's jobs to *jobs* (which *names* knows); what is wrong goes to the reader's problems."""
        data = self._files.read(self.path, owner_may_differ=not self.system)
        if data is None or not self._settle_owner():
            return
        if b"\0" in data:
            self._problem(data.count(b"\n", 0, data.index(b"\0")) + 1, "holds a NUL character")
            return
        # Decoded piece by piece: as one string and a list of lines a large file would take 60 MB for a moment.
        text = TextIOWrapper(BytesIO(data), "utf-8", "surrogateescape", newline="\n")
        del data
        known = _LAST.get(self.path)
        before: dict[int, _Kept] = dict(zip(*known, strict=True)) if known is not None else {}
        keys, kept = array("q"), list[_Kept]()
        makers: dict[Settings, _Maker] = {}
        twins: dict[int, int] = {}
        maker, settings = None, None
        seed = repr((sorted(defaults.items()), zone, notify, self._owner, self.system))
        for line in walk(text):
            if line.settings is not settings or maker is None:
                settings = line.settings
                maker = makers.get(settings)
                if maker is None:
                    maker = makers[settings] = _Maker(
                        self, settings, names, defaults, zone, notify, hash((settings, seed))
                    )
            key = hash((line.text, line.description, maker.key))
            entry = before.get(key)
            if not isinstance(entry, Job) or not names.is_free(entry.name):
                # New, changed, or one of several with the same name: those are told apart by their order too.
                place = hash((key, twins.get(key, 0)))
                try:
                    entry = maker.again(line.text, before.get(place)) or maker.make(line)
                except ValueError as error:
                    self._problem(line.number, str(error))
                    continue
                if not isinstance(entry, Job):
                    twins[key] = twins.get(key, 0) + 1
                    key = place
            job = entry if isinstance(entry, Job) else entry[1]
            jobs[job.name] = job
            keys.append(key)
            kept.append(entry)
        if self._problems > _TOLD_PROBLEMS:
            self._reader.problems.add(
                self.place, "", f"and {self._problems - _TOLD_PROBLEMS} more lines that are wrong"
            )
        elif not self._problems:
            _LAST[self.path] = (keys, kept)

    def user_of(self, named: str | None) -> str | None:
        """Return whom a line's job runs as (``None``: as the daemon); raises ``ValueError`` with the reason."""
        wanted = named if named is not None else self._owner
        if wanted is None or wanted == self._me:
            return None
        wrong = self._reader.account_problem()
        if wrong is not None:
            raise ValueError(f"{shown(wanted)}: {wrong}")
        return wanted

    def _settle_owner(self) -> bool:
        """A user's crontab, run by root, runs as that user: nothing else would be safe."""
        owner = self._files.owners[self.path]
        if self.system or self._uid != 0 or owner == 0:
            return True
        self._owner = account_name(owner)
        if self._owner is None:
            self._reader.problems.add(
                self.place, "", f"belongs to user id {owner}, which is nobody on this machine"
            )
        return self._owner is not None

    def _problem(self, number: int, reason: str) -> None:
        self._problems += 1
        if self._problems <= _TOLD_PROBLEMS:
            self._reader.problems.add(f"{self.place}:{number}", "", reason)


class _Maker:
    """Makes jobs of the lines below one set of settings."""

    def __init__(
        self,
        file: CrontabFile,
        settings: Settings,
        names: Names,
        defaults: Mapping[str, Any],
        zone: str,
        notify: tuple[str, ...],
        key: int,
    ) -> None:
        self.key = key
        self._file = file
        self._names = names
        self._users: dict[str | None, Surroundings] = {}
        self._arguments = (settings, file._reader, defaults, zone, notify)
        # Here, not where jobs are made: on a reload all of the jobs below may be the ones made before.
        mail = mail_of(settings)
        if mail is not None:
            file.mail[mail.name] = mail

    def again(self, line: str, entry: _Kept | None) -> _Kept | None:
        """Return what a line with a numbered name became the last time, unless it would be called differently."""
        if entry is None or isinstance(entry, Job):
            return None
        base, job = entry
        if self._names.is_free(base):
            return None
        return entry if self._names.give(base, line) == job.name else None

    def make(self, line: Line) -> _Kept:
        """Return the job of a line, with the name it would have had if that was taken."""
        text, named, rest = split_line(line.text, system=self._file.system)
        user = self._file.user_of(named)
        around = self._users.get(user)
        if around is None:
            around = self._users[user] = self._surroundings(user)
        command, stdin = split_command(rest)
        if not command:
            raise ValueError("a job has 5 time fields and a command")
        base = slug(command)
        name = self._names.give(base, line.text)
        try:
            schedule, meant, timing = around.schedule(text, name)
        except ScheduleError as error:
            raise ValueError(f"{shown(text)}: {reason_of(error, text, random_ranges(text))}") from None
        action = CommandAction(command, (), around.shell, stdin, around.codes)
        job = Job(
            name,
            action,
            schedule,
            meant,
            around.zone,
            line.description,
            around.enabled,
            None,
            around.policy,
            around.process,
            combine(action_text(action), around.bundle),
            timing,
            self._file.place,
        )
        return job if name == base else (base, job)

    def _surroundings(self, user: str | None) -> Surroundings:
        settings, reader, defaults, zone, notify = self._arguments
        return Surroundings(settings, user, reader, defaults, zone, notify)

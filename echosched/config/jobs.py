"""``[defaults]`` and ``[job.NAME]`` tables → :class:`~echosched.model.Job` values.

Jobs with equal settings share one Policy and one Process object, whatever file they come from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from echosched.config import values as v
from echosched.config.actions import ACTION_KEYS, read_action
from echosched.config.digest import definition_of, timing_of
from echosched.config.job_keys import JOB_KEYS, KINDS_OF, POLICY_KEYS, PROCESS_KEYS, idle_keys
from echosched.errors import ScheduleError
from echosched.model import Action, After, Dst, Job, Policy, Process
from echosched.protocols import Schedule
from echosched.schedule import parse_after, parse_schedule
from echosched.schedule.base import quoted
from echosched.schedule.zones import find_zone

_NAME = re.compile(r"[\w][\w.:@+-]{0,127}")
_LONGEST_NAME = 128


class Links(NamedTuple):
    """What a job, even a faulty one, refers to: judged when all files are read."""

    source: str
    job: str
    after: After | None
    policy: Policy


class JobReader:
    """Reads job tables with one set of problems, one user and one pool of shared settings."""

    def __init__(self, problems: v.Problems, *, uid: int, stays_root: bool) -> None:
        """Note problems in *problems*; *uid* is whom jobs run as, *stays_root* ``False`` if it was root before."""
        self.problems = problems
        self._uid = uid
        self._me = account_name(uid)
        self._stays_root = stays_root
        self._policies: dict[Policy, Policy] = {}
        self._processes: dict[Process, Process] = {}
        self._zones: dict[str, str | None] = {}
        self.links: list[Links] = []

    # ── shared settings ───────────────────────────────────────────────────────────────────────

    def policy(self, values: Mapping[str, Any]) -> Policy:
        """Return the shared policy that parsed job keys describe."""
        chosen = {key: values[key] for key in POLICY_KEYS if key in values}
        if "concurrency_group" in chosen:
            chosen["concurrency_group"], chosen["concurrency_limit"] = chosen["concurrency_group"]
        policy = Policy(**chosen)
        return self._policies.setdefault(policy, policy)

    def process(self, values: Mapping[str, Any]) -> Process:
        """Return the shared process settings that parsed job keys describe; ``~`` is resolved here."""
        chosen = {key: values[key] for key in PROCESS_KEYS if key in values}
        if self._me is not None and chosen.get("user") == self._me and "group" not in chosen:
            del chosen["user"]
        for key in ("cwd", "env_file"):
            if str(chosen.get(key, "")).startswith("~"):
                chosen[key] = self._home(chosen[key], chosen.get("user"))
        process = Process(**chosen)
        return self._processes.setdefault(process, process)

    def zone_problem(self, name: str) -> str | None:
        """Return why *name* is no time zone, or ``None``; asks once for each name."""
        if name not in self._zones:
            self._zones[name] = None if find_zone(name) is not None else _unknown_zone(name)
        return self._zones[name]

    def account_problem(self) -> str | None:
        """Return why jobs can run as nobody else, or ``None``.

        An account that this machine does not know is no such reason: it may come with the network's directory
        later. ``check`` warns of it, and a run without it fails.
        """
        if not self._stays_root:
            return "the daemon gives up root ([daemon] user) and cannot do this"
        if self._uid != 0:
            return "only a daemon run by root can run jobs as somebody else"
        return None

    def _home(self, place: str, user: str | None) -> str:
        head, _, rest = place.partition("/")
        if head == "~" and (user or self._me) is not None:
            # Not $HOME: after a change of credentials, or under sudo, it is somebody else's.
            head = f"~{user or self._me}"
        return os.path.expanduser(head) + ("/" + rest if rest else "")

    # ── tables ────────────────────────────────────────────────────────────────────────────────

    def defaults(self, table: Any, place: str, inherited: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parsed ``[defaults]`` of one file, over those of the main file."""
        if not isinstance(table, dict):
            self.problems.add_value(place, "defaults", table, "must be a table")
            return dict(inherited)
        for key in ACTION_KEYS:
            if key in table:
                self.problems.add(place, f"defaults.{key}", "what a job does cannot be a default")
        return _over(inherited, self._values(table, place, "defaults"))

    def job(
        self,
        name: str,
        table: Any,
        place: str,
        defaults: Mapping[str, Any],
        timezone: str,
        *,
        action: Action | None = None,
    ) -> Job | None:
        """Return the job that *table* describes; ``None`` when *problems* got the reasons.

        With *action* the job does that (a callable, which no file can name), and *table* holds the rest.
        """
        key = f"job.{name}"
        before = len(self.problems.lines)
        if _NAME.fullmatch(name) is None:
            key = f"job.{v.shown(name)}"
            self._bad_name(name, place, key)
        if not isinstance(table, dict):
            self.problems.add_value(place, key, table, "must be a table")
            return None
        own = self._values(table, place, key)
        values: Mapping[str, Any] = _over(defaults, own)
        if action is None:
            action, values = self._action(table, own, values, place, key)
        self._check_account(values, table, place, key)
        texts: tuple[str, ...] = values.get("schedule", ())
        after: After | None = values.get("after")
        if after is None and len(texts) == 1 and texts[0].strip().lower().startswith("after "):
            after, texts = self._after(texts[0], place, f"{key}.schedule"), ()
        zone = values.get("timezone", timezone)
        wrong = self.zone_problem(zone)
        if wrong is not None and "timezone" in own:
            self.problems.add_value(place, f"{key}.timezone", zone, wrong)
        schedule = self._schedule(name, texts, "UTC" if wrong else zone, values, table, place, key)
        policy, process = self.policy(values), self.process(values)
        self.links.append(Links(f"{place}: {key}", name, after, policy))
        if action is None or len(self.problems.lines) > before:
            return None
        dst = values.get("dst", Dst.ONCE)
        return Job(
            name=name,
            action=action,
            schedule=schedule,
            schedule_text="; ".join(texts),
            timezone=zone,
            description=values.get("description", ""),
            enabled=values.get("enabled", True),
            after=after,
            policy=policy,
            process=process,
            definition=definition_of(action, policy, process),
            timing=timing_of(texts, zone, dst=str(dst), excluded=values.get("except", ()), after=after),
            source=f"{place}: {key}",
        )

    # ── parts ─────────────────────────────────────────────────────────────────────────────────

    def _values(self, table: Mapping[str, Any], place: str, key: str) -> dict[str, Any]:
        """Return the parsed keys of a job, without those that say what it does."""
        rest = {name: content for name, content in table.items() if name not in ACTION_KEYS}
        return self.problems.read(place, key, rest, JOB_KEYS, (*JOB_KEYS, *ACTION_KEYS))

    def _action(
        self,
        table: Mapping[str, Any],
        own: Mapping[str, Any],
        values: Mapping[str, Any],
        place: str,
        key: str,
    ) -> tuple[Action | None, Mapping[str, Any]]:
        """Return what the job does, and of its *values* those that mean something to that.

        A key of its *own* that does not is refused. One of ``[defaults]`` is for the other jobs, and is left out:
        nothing is looked up, warned of or compared that has no effect.
        """
        kinds = [kind for kind in ACTION_KEYS if kind in table]
        if not kinds:
            self.problems.add(place, key, "does nothing: give it a command, http, python or builtin")
            return None, values
        if len(kinds) > 1:
            self.problems.add(place, key, f"does two things, {' and '.join(kinds)}: make it one, or two jobs")
            return None, values
        kind = kinds[0]
        idle = idle_keys(kind, table[kind])
        for name in idle:
            if name in own:
                whose = f"it is for jobs with {' or '.join(KINDS_OF[name])}"
                reason = f"means nothing for a job with {kind} ({whose}: remove it)"
                self.problems.add(place, f"{key}.{name}", reason)
        used = {name: value for name, value in values.items() if name not in idle}
        return read_action(kind, table[kind], used, place, key, self.problems), used

    def _schedule(
        self,
        name: str,
        texts: tuple[str, ...],
        zone: str,
        values: Mapping[str, Any],
        table: Mapping[str, Any],
        place: str,
        key: str,
    ) -> Schedule | None:
        if not texts:
            if "except" in table:
                self.problems.add(place, f"{key}.except", "means nothing without a schedule")
            return None
        dst = str(values.get("dst", Dst.ONCE))
        text = texts[0] if len(texts) == 1 else texts
        try:
            schedule: Schedule = parse_schedule(text, zone, name=name, dst=dst)
        except ScheduleError as error:
            self._blame(f"{key}.schedule", texts, zone, dst, name, place, error)
            return None
        excluded: tuple[str, ...] = values.get("except", ())
        if excluded:
            try:
                schedule = parse_schedule(text, zone, name=name, dst=dst, except_=excluded)
            except ScheduleError as error:
                shown = excluded[0] if len(excluded) == 1 else excluded
                self.problems.add_value(place, f"{key}.except", shown, reason_of(error, *excluded))
        return schedule

    def _after(self, text: str, place: str, key: str) -> After | None:
        try:
            return parse_after(text)
        except ScheduleError as error:
            self.problems.add_value(place, key, text, reason_of(error, text))
            return None

    def _blame(
        self,
        key: str,
        texts: tuple[str, ...],
        zone: str,
        dst: str,
        name: str,
        place: str,
        error: ScheduleError,
    ) -> None:
        """Name the expressions of a list that are wrong; all of them are tried."""
        if len(texts) == 1:
            self.problems.add_value(place, key, texts[0], reason_of(error, texts[0]))
            return
        for index, text in enumerate(texts):
            try:
                parse_schedule(text, zone, name=name, dst=dst)
            except ScheduleError as wrong:
                self.problems.add_value(place, f"{key}[{index}]", text, reason_of(wrong, text))

    def _check_account(
        self, values: Mapping[str, Any], table: Mapping[str, Any], place: str, key: str
    ) -> None:
        for name in ("user", "group"):
            if name not in values:
                continue
            account = values[name]
            full = f"{key}.{name}" if name in table else f"defaults.{name}"
            wrong = self.account_problem()
            if wrong is not None:
                self.problems.add_value(place, full, account, wrong)

    def _bad_name(self, name: str, place: str, key: str) -> None:
        cure = re.sub(r"[^\w.:@+-]+", "-", name[:_LONGEST_NAME]).strip("-.:@+") or "job"
        self.problems.add(
            place,
            key,
            f"a job's name has letters, digits and _ . : @ + -, at most {_LONGEST_NAME}, and begins with a letter "
            f"or digit (such as {v.shown(cure)})",
        )


def _over(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return *own* values over *defaults*; environment variables are merged one by one."""
    values = {**defaults, **own}
    if "env" in defaults and "env" in own:
        values["env"] = tuple(sorted({**dict(defaults["env"]), **dict(own["env"])}.items()))
    return values


def reason_of(error: ScheduleError, *texts: str) -> str:
    """Return the reason without the expression in front, which the message shows already."""
    reason = str(error)
    for text in texts:
        reason = reason.removeprefix(f"{quoted(text)}: ")
    return reason


def account_name(uid: int) -> str | None:
    """Return the name of a user id, ``None`` if this machine knows none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def account_id(name: str) -> int | None:
    """Return the id of a user (a number is its own), ``None`` if this machine does not know the name."""
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdecimal() and name.isascii() else None


def account_exists(name: str, *, group: bool = False) -> bool:
    """Tell whether this machine knows the user (or group); numeric ids are taken as they are."""
    if name.isdigit():
        return True
    import grp
    import pwd

    try:
        _ = grp.getgrnam(name) if group else pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _unknown_zone(name: str) -> str:
    from zoneinfo import available_timezones

    return "unknown time zone" + (
        v.nearest(name, available_timezones()) or ' (use a name such as "Europe/Berlin", or "UTC")'
    )

"""All files → one :class:`~echosched.config.settings.Config`, or one error with everything that is wrong.

Reading order: the main file, what it includes, the drop-ins beside it (by name), the crontabs. Included files and
drop-ins hold ``[job.NAME]`` and ``[notify.NAME]``; their ``timezone`` and ``[defaults]`` are for their own jobs only.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

from echosched.config import tables, values
from echosched.config.checks import check_after, check_groups, check_notify, warnings_of
from echosched.config.daemon_settings import DaemonConfig, read_daemon_table
from echosched.config.files import ConfigFiles
from echosched.config.jobs import JobReader, account_exists, account_id
from echosched.config.paths import Paths
from echosched.config.settings import Cluster, Config, NotifyConfig, RetentionConfig, WebConfig
from echosched.errors import ConfigError
from echosched.model import Job

MAIN_TABLES = ("timezone", "include", "daemon", "retention", "defaults", "web", "notify", "cluster", "job")
PART_TABLES = ("timezone", "include", "defaults", "notify", "job")


def load(
    path: str | None = None,
    *,
    paths: Paths | None = None,
    drop_ins: bool = True,
    environ: Mapping[str, str] | None = None,
    uid: int | None = None,
    draft: str | None = None,
    draft_of: str | None = None,
) -> Config:
    """Return the configuration in *path* (default: that of *paths*) and the files that belong to it.

    With *draft* that file is read as if it lay at *path*, or at *draft_of*, one of the other files: what an editor
    is about to save.

    Reads files and the account database, nothing else. *environ* is where ``${env:…}`` will be looked up: only to
    warn about what is unset. *uid* is the daemon's. Raises ``ConfigError`` with all problems, each
    ``file: key: value: reason``.
    """
    if path is None:
        if paths is None:
            raise TypeError("load() needs a path or paths")
        path = paths.config
    return _Loading(
        os.path.abspath(path),
        home_mode=paths is not None and paths.mode == "home",
        environ=os.environ if environ is None else environ,
        uid=os.geteuid() if uid is None else uid,
        draft=None if draft is None else (os.path.abspath(draft_of or path), draft),
    ).run(drop_ins=drop_ins)


class _Loading:
    """One pass over all files."""

    def __init__(
        self,
        path: str,
        *,
        home_mode: bool,
        environ: Mapping[str, str],
        uid: int,
        draft: tuple[str, str] | None,
    ) -> None:
        self.problems = values.Problems()
        self.files = ConfigFiles(path, self.problems, uid=uid, home_mode=home_mode, draft=draft)
        self.environ = environ
        self.uid = uid
        self.jobs: dict[str, Job] = {}
        self.notify: dict[str, NotifyConfig] = {}
        self.declared: dict[str, str] = {}  # "job.NAME" → place, also of those that turned out wrong
        self.warnings: list[str] = []
        self.daemon = DaemonConfig()
        self.cluster: Cluster | None = None
        self.timezone = "UTC"
        self.defaults: dict[str, Any] = {}
        self.reader = JobReader(self.problems, uid=uid, stays_root=True)

    def run(self, *, drop_ins: bool) -> Config:
        """Read everything, check everything, then speak."""
        missing = self.files.missing()
        if missing is not None:
            raise missing
        document = self.files.read_toml(self.files.main)
        retention, web = RetentionConfig(), WebConfig()
        if document is not None:
            retention, web = self._main(document)
        for path in self.files.drop_ins() if drop_ins else ():
            self._part(path)
        self._crontabs(explicit_zone=document is not None and "timezone" in document)
        self._check()
        if self.problems.lines:
            raise ConfigError(self.problems.lines)
        self.warnings += warnings_of(self.jobs, self.notify, self.environ, self.cluster)
        return Config(
            jobs=self.jobs,
            daemon=self.daemon,
            retention=retention,
            web=web,
            notify=self.notify,
            timezone=self.timezone,
            warnings=tuple(self.warnings),
            sources=tuple(self.files.sources),
            cluster=self.cluster,
        )

    # ── documents ─────────────────────────────────────────────────────────────────────────────

    def _main(self, document: dict[str, Any]) -> tuple[RetentionConfig, WebConfig]:
        place = self.files.place(self.files.main)
        for name in document:
            if name not in MAIN_TABLES:
                self.problems.unknown(
                    place, "", name, MAIN_TABLES, "table" if _is_table(document[name]) else "key"
                )
        daemon = document.get("daemon", {})
        if _is_table(daemon):
            self.daemon = read_daemon_table(daemon, place, self.problems)
            self._daemon_accounts(place)
        else:
            self.problems.add_value(place, "daemon", daemon, "must be a table")
        gives_up_root = self.uid == 0 and self.daemon.user is not None
        if gives_up_root:
            # Judge as the worker will see it, whose jobs run as the daemon's user.
            self.uid = account_id(str(self.daemon.user)) or 0
        self.reader = JobReader(self.problems, uid=self.uid, stays_root=not gives_up_root)
        self.timezone = self._zone(document, place, "UTC")
        self.defaults = self.reader.defaults(document.get("defaults", {}), place, {})
        self._definitions(document, place, self.defaults, self.timezone)
        self._include(document, place, self.files.main)
        retention = tables.read_retention(document.get("retention", {}), place, self.problems)
        web = tables.read_web(document.get("web", {}), place, self.problems)
        if "cluster" in document:
            from echosched.config.cluster import read_cluster

            self.cluster = read_cluster(document["cluster"], place, self.problems)
        return retention, web

    def _daemon_accounts(self, place: str) -> None:
        """Note accounts of ``[daemon]`` that this machine does not know, or that this user cannot take."""
        daemon = self.daemon
        for key, account in (
            ("user", daemon.user),
            ("group", daemon.group),
            ("control_group", daemon.control_group),
        ):
            if account is None:
                continue
            if not account_exists(account, group=key != "user"):
                what = "user" if key == "user" else "group"
                self.problems.add_value(place, f"daemon.{key}", account, f"no such {what} on this machine")
            elif key == "user" and self.uid != 0 and account_id(account) != self.uid:
                reason = "only a daemon started by root can run as somebody else"
                self.problems.add_value(place, "daemon.user", account, reason)

    def _part(self, path: str) -> None:
        """Read an included file or a drop-in."""
        document = self.files.read_toml(path)
        if document is None:
            return
        place = self.files.place(path)
        for name in document:
            if name in MAIN_TABLES and name not in PART_TABLES:
                self.problems.add(
                    place, name, f"belongs into the main file, {self.files.place(self.files.main)}"
                )
            elif name not in PART_TABLES:
                self.problems.unknown(
                    place, "", name, PART_TABLES, "table" if _is_table(document[name]) else "key"
                )
        defaults = self.reader.defaults(document.get("defaults", {}), place, self.defaults)
        self._definitions(document, place, defaults, self._zone(document, place, self.timezone))
        self._include(document, place, path)

    def _include(self, document: Mapping[str, Any], place: str, path: str) -> None:
        if "include" not in document:
            return
        try:
            patterns = values.strings(document["include"])
        except ValueError as error:
            self.problems.add_value(place, "include", document["include"], str(error))
            return
        for pattern in patterns:
            full = os.path.join(os.path.dirname(path), os.path.expanduser(pattern))
            if not glob.has_magic(pattern):
                self._part(full)
                continue
            for found in sorted(glob.glob(full)):
                self._part(found)

    def _zone(self, document: Mapping[str, Any], place: str, default: str) -> str:
        if "timezone" not in document:
            return default
        try:
            zone = values.line(document["timezone"])
            wrong = self.reader.zone_problem(zone)
            if wrong is None:
                return zone
        except ValueError as error:
            wrong = str(error)
        self.problems.add_value(place, "timezone", document["timezone"], wrong)
        return default

    def _definitions(
        self, document: Mapping[str, Any], place: str, defaults: Mapping[str, Any], zone: str
    ) -> None:
        for name, table in self._named(document, "notify", place):
            notify = tables.read_notify(name, table, place, self.problems)
            if notify is not None:
                self.notify[name] = notify
        for name, table in self._named(document, "job", place):
            job = self.reader.job(name, table, place, defaults, zone)
            if job is not None:
                self.jobs[name] = job

    def _named(self, document: Mapping[str, Any], kind: str, place: str) -> list[tuple[str, Any]]:
        """Return the tables ``[kind.NAME]`` that no other file has defined."""
        found = document.get(kind, {})
        if not _is_table(found):
            self.problems.add_value(place, kind, found, f"must hold tables: [{kind}.NAME]")
            return []
        fresh = []
        for name, table in found.items():
            key = f"{kind}.{name}"
            if key in self.declared:
                self.problems.add(place, key, f"is defined in {self.declared[key]} too (rename one of them)")
                continue
            self.declared[key] = place
            fresh.append((name, table))
        return fresh

    # ── crontabs and checks ───────────────────────────────────────────────────────────────────

    def _crontabs(self, *, explicit_zone: bool) -> None:
        if not self.daemon.crontabs:
            return
        from echosched.config.crontab_files import read_crontabs

        read_crontabs(
            self.daemon.crontabs,
            files=self.files,
            reader=self.reader,
            defaults=self.defaults,
            zone=self.timezone if explicit_zone else None,
            jobs=self.jobs,
            declared=self.declared,
            notify=self.notify,
            uid=self.uid,
        )

    def _check(self) -> None:
        links = self.reader.links
        names = {key[len("job.") :] for key in self.declared if key.startswith("job.")} | self.jobs.keys()
        check_after(links, names, self.problems)
        notify = {
            key[len("notify.") :] for key in self.declared if key.startswith("notify.")
        } | self.notify.keys()
        check_notify(links, notify, self.problems)
        check_groups(links, self.problems)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)

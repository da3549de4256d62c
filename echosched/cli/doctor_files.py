"""What ``doctor`` asks of files and processes: rights, room, the daemon, what an earlier one left behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from echosched.cli import render
from echosched.cli.doctor_host import existing
from echosched.cli.findings import Finding, bad, ok, warn
from echosched.errors import ConfigError, EchoschedError

if TYPE_CHECKING:
    from echosched.config.paths import Paths
    from echosched.config.settings import Config

LITTLE_BYTES, SCARCE_BYTES = 500_000_000, 20_000_000
LITTLE_INODES = 1000
SECRET_WORDS = ("password", "passwd", "token", "secret", "api_key", "apikey", "dsn")


def read_config(paths: Paths) -> tuple[Config | None, list[Finding]]:
    """Return the configuration if it is good, and what is to be said of it."""
    from echosched.config.load import load

    try:
        config = load(paths=paths)
    except ConfigError as error:
        cure = "correct it (echoschedd check shows all that is wrong)"
        if not os.path.exists(paths.config):
            cure = "echoschedd edit"
        return None, [bad("configuration", problem, cure) for problem in error.problems[:5]]
    count = len(config.jobs)
    found = [ok("configuration", f"{paths.config}: good, {count} job{'' if count == 1 else 's'}")]
    found += [warn("configuration", warning, "see echoschedd check") for warning in config.warnings[:5]]
    return config, found


# ── rights ────────────────────────────────────────────────────────────────────────────────────


def config_rights(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See who may change what the daemon runs, and who may read the secrets in it."""
    sources = [paths.config] if config is None else list(config.sources)
    faults = [finding for path in sources if os.path.exists(path) for finding in _config_file(path)]
    yield from faults
    if not faults and config is not None:
        yield ok(
            "config rights",
            f"{len(sources)} file{'' if len(sources) == 1 else 's'}: only the owner can change them",
        )


def _config_file(path: str) -> Iterator[Finding]:
    found = os.stat(path)
    if found.st_mode & stat.S_IWOTH:
        yield bad("config rights", f"{path}: everybody may change what the daemon runs", f"chmod o-w {path}")
    elif found.st_mode & stat.S_IWGRP:
        yield warn("config rights", f"{path}: its group may change what the daemon runs", f"chmod g-w {path}")
    if found.st_uid not in (0, os.geteuid()):
        who = _name(found.st_uid)
        yield warn(
            "config rights",
            f"{path}: belongs to {who}, who decides what runs",
            f"chown {_name(os.geteuid())} {path}",
        )
    if found.st_mode & stat.S_IROTH and (word := _secret_in(path)):
        yield warn(
            "config rights",
            f"{path}: everybody may read it, and it seems to hold a {word}",
            f"chmod o-r {path}, or write ${{file:/path}} or ${{env:NAME}} instead",
        )


def _secret_in(path: str) -> str | None:
    """Return the kind of secret that seems to stand in *path* in plain text."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return None
    for line in lines:
        key, equals, value = line.partition("=")
        plain = equals and "${" not in value and not line.lstrip().startswith("#") and value.strip(" \"'")
        for word in SECRET_WORDS:
            if plain and word in key.lower():
                return word
    return None


def directories(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether everything that the daemon writes can be written, by it and by nobody else."""
    faults = 0
    for directory in paths.directories():
        for finding in _directory(directory):
            faults += 1
            yield finding
    if not faults:
        yield ok("directories", "all can be written (or made), and only by their owner")
    length = len(os.fsencode(paths.socket))
    from echosched.daemon import probe

    reason = probe.socket_binds(existing(os.path.dirname(paths.socket)))
    if reason is not None:
        yield bad(
            "socket",
            f"{paths.socket}: no socket can be made there: {reason}",
            "--socket in another directory",
        )
    elif length > 90:
        yield warn(
            "socket", f"{paths.socket}: {length} of 107 possible bytes", "use a shorter --home, or --socket"
        )


def _directory(path: str) -> Iterator[Finding]:
    present = os.path.isdir(path)
    above = existing(path)
    if not os.access(above, os.W_OK | os.X_OK):
        what = "cannot be written" if present else f"cannot be made in {above}"
        yield bad(
            "directories", f"{path}: {what} by {_name(os.geteuid())}", f"chown {_name(os.geteuid())} {above}"
        )
        return
    if not present:
        return
    found = os.stat(path)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        yield bad(
            "directories",
            f"{path}: everybody may write there, and replace the daemon's files",
            f"chmod o-w {path}",
        )
    elif found.st_mode & stat.S_IWOTH:
        yield warn("directories", f"{path}: is shared with everybody", "use a directory of its own (--home)")


def files(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether what the daemon has made is what it made: rights, no links."""
    expected = {
        paths.web_key: 0o600,
        paths.socket: 0o600 if config is None or config.daemon.control_group is None else 0o660,
        paths.db: 0o640,
        paths.state: 0o640,
        paths.log: 0o640,
        paths.out: 0o640,
        paths.pidfile: 0o644,
    }
    faults = seen = 0
    for path, mode in expected.items():
        try:
            found = os.lstat(path)
        except OSError:
            continue
        seen += 1
        if stat.S_ISLNK(found.st_mode):
            faults += 1
            yield bad("files", f"{path}: is a symbolic link, which the daemon does not follow", f"rm {path}")
        elif extra := stat.S_IMODE(found.st_mode) & ~mode & 0o077:
            faults += 1
            state = bad if path == paths.web_key or extra & 0o022 else warn
            yield state(
                "files",
                f"{path}: mode {stat.S_IMODE(found.st_mode):04o}, more than {mode:04o}",
                f"chmod {mode:o} {path}",
            )
    if seen and not faults:
        yield ok("files", f"{seen} there, none with more rights than it needs")


def account(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whose rights the jobs have."""
    if os.geteuid() != 0:
        yield ok("account", f"{_name(os.geteuid())}: jobs run with this user's rights")
        return
    user = None if config is None else config.daemon.user
    if user is not None:
        yield ok("account", f"started by root, goes on as {user}")
        return
    count = 0 if config is None else sum(job.process.user is None for job in config.jobs.values())
    if count:
        yield warn(
            "account",
            f"root: {count} job{'' if count == 1 else 's'} without a user of their own run as root",
            'set user = "…" in the jobs or in [defaults], or daemon.user for all',
        )
    else:
        yield ok("account", "root; every job has a user of its own")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


# ── room ──────────────────────────────────────────────────────────────────────────────────────


def room(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See how much can still be written."""
    seen: set[int] = set()
    for path in (paths.db, paths.log, paths.runs, paths.pidfile):
        directory = existing(os.path.dirname(path))
        device = os.stat(directory).st_dev
        if device in seen:
            continue
        seen.add(device)
        left = os.statvfs(directory)
        free = left.f_bavail * left.f_frsize
        shown = f"{directory}: {render.size(free)} free"
        cure = "make room, or shorten [retention] and run a retention job"
        if left.f_flag & os.ST_RDONLY:
            yield bad(
                "disk space", f"{directory}: is mounted read-only", "remount it, or put the files elsewhere"
            )
        elif free < SCARCE_BYTES:
            yield bad("disk space", shown, cure)
        elif left.f_files and left.f_favail < LITTLE_INODES:
            yield bad("disk space", f"{shown}, but room for only {left.f_favail} more files", cure)
        elif free < LITTLE_BYTES and free < left.f_blocks * left.f_frsize // 10:
            yield warn("disk space", shown, cure)
        else:
            yield ok("disk space", shown)


# ── the daemon ────────────────────────────────────────────────────────────────────────────────


def daemon(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See how the daemon is, or how it ended."""
    from echosched.control.client import full_status
    from echosched.version import __version__

    document = full_status(paths)
    if not document["running"]:
        last = document["last_exit"]
        if last and last["how"] != "clean":
            yield warn(
                "daemon", f"not running; its last end: {last['how']}", "echoschedd logs --out, then start"
            )
        else:
            yield ok("daemon", "not running")
        return
    health = document["health"]
    if health == "ok":
        yield ok("daemon", f"running (pid {document['pid']}), its loop makes progress")
    else:
        why = "; ".join(document.get("reasons") or []) or "see echoschedd status"
        yield (bad if health == "stalled" else warn)(
            "daemon", f"{health}: {why}", "echoschedd logs, logs --out"
        )
    if document["version"] not in (None, __version__):
        finding = f"runs version {document['version']}, installed is {__version__}"
        yield warn("daemon", finding, "echoschedd upgrade (running jobs go on)")


def orphans(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See what an earlier daemon, or a job that ended, left running."""
    from echosched.app.daemon import mark_format
    from echosched.daemon import lock, probe

    mark = mark_format(paths).partition("{0}")[0]
    processes = probe.marked(mark)
    if lock.is_held(paths.pidfile):
        active = _active_runs(paths)
        left = [] if active is None else [pid for pid in processes if _run_of(pid, mark) not in active]
        if left:
            pids = " ".join(map(str, left))
            yield warn(
                "orphans", f"processes of runs that have ended: {pids}", f"kill {pids} (if nobody wants them)"
            )
        else:
            yield ok("orphans", "no process without its run")
        return
    # Of many hosts the runs are in the database, where the others see to those of a host that is gone.
    shared = config is not None and config.cluster is not None
    open_runs = 0 if shared else _open_runs(paths)
    if processes:
        pids = " ".join(map(str, processes))
        yield warn(
            "orphans",
            f"processes of an earlier daemon run on: {pids}",
            "echoschedd start watches them to their end; echoschedd stop --force ends them",
        )
    elif open_runs:
        yield warn(
            "orphans",
            f"{open_runs} run{'' if open_runs == 1 else 's'} without an outcome, and no daemon",
            "echoschedd start accounts for them",
        )
    else:
        yield ok("orphans", "no process and no run left behind")


def _active_runs(paths: Paths) -> set[int] | None:
    from echosched.control.client import ControlClient

    try:
        with ControlClient(paths.socket, timeout=5.0) as client:
            return {row["run"] for row in client.call("running")}
    except EchoschedError:
        return None


def _run_of(pid: int, mark: str) -> int | None:
    """Return the run whose mark the process carries; ``None`` when it has gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    for entry in entries:
        if entry.startswith(mark.encode()):
            number = entry[len(mark) :].partition(b".")[0]
            return int(number) if number.isdigit() else None
    return None


def _open_runs(paths: Paths) -> int:
    from echosched.store.sqlite import SqliteStore

    async def count() -> int:
        store = SqliteStore(paths.db, read_only=True)
        await store.open()
        try:
            return len(await store.active())
        finally:
            await store.close()

    if not os.path.exists(paths.db):
        return 0
    return asyncio.run(count())


def database(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether the database is whole."""
    from echosched.store.sqlite import SqliteStore

    async def check() -> list[str]:
        store = SqliteStore(paths.db, read_only=True)
        await store.open()
        try:
            return await store.check()
        finally:
            await store.close()

    if not os.path.exists(paths.db):
        return
    try:
        problems = asyncio.run(check())
    except EchoschedError as error:
        problems = [str(error)]
    if problems:
        yield bad("database", f"{paths.db}: {problems[0]}", "echoschedd stop, move the file aside, start")
    else:
        yield ok("database", f"{paths.db}: whole, {render.size(os.path.getsize(paths.db))}")


CHECKS = (config_rights, directories, files, account, room, daemon, database, orphans)

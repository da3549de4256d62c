"""The surroundings of a job's process: environment, account, working directory.

The environment is built from nothing: the daemon's own (its secrets, its NOTIFY_SOCKET) never reaches a job.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass

from echosched.clock import rfc3339
from echosched.errors import ExecutionError
from echosched.model import Attempt, Process

MARK = "ECHOSCHED_MARK"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Account:
    """Who a job runs as. *change* is ``None`` when that is the daemon's own account."""

    name: str
    home: str
    shell: str
    change: tuple[int, int, tuple[int, ...]] | None = None  # uid, gid, supplementary groups


def own_account() -> Account:
    """Return the account this process runs as; one without a passwd entry gets plain defaults."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return Account(str(os.geteuid()), "/", "/bin/sh")
    return Account(entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")


def account_of(process: Process, own: Account) -> Account:
    """Return who *process* shall run as; raises ``ExecutionError`` for unknown names and missing rights."""
    if process.user is None and process.group is None:
        return own
    account, uid, gid, groups = own, os.geteuid(), os.getegid(), tuple(os.getgroups())
    if process.user is not None:
        entry = _passwd(process.user)
        account = Account(entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")
        uid, gid = entry.pw_uid, entry.pw_gid
        groups = tuple(os.getgrouplist(entry.pw_name, gid))
    if process.group is not None:
        gid = _group(process.group)
    if (uid, gid) == (os.geteuid(), os.getegid()) and set(groups) | {gid} == {*os.getgroups(), os.getegid()}:
        return account
    if os.geteuid() != 0:
        wanted = f"user {process.user!r}" if process.user is not None else f"group {process.group!r}"
        raise ExecutionError(f"{wanted}: only a daemon that runs as root can change the account of a job")
    return Account(account.name, account.home, account.shell, (uid, gid, groups))


def _passwd(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            try:
                return pwd.getpwuid(int(user))
            except (KeyError, OverflowError):
                pass
        raise ExecutionError(f"user {user!r} is unknown") from None


def _group(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal():
            return int(group)
        raise ExecutionError(f"group {group!r} is unknown") from None


def read_env_file(path: str) -> dict[str, str]:
    """Return the ``NAME=value`` lines of *path*; raises ``ExecutionError`` naming file and line.

    Empty lines and lines that start with ``#`` are skipped, a leading ``export`` and one pair of quotes
    around the value are taken off; nothing else is interpreted (as systemd's EnvironmentFile without its
    line continuations).
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ExecutionError(f"env_file {path}: not a regular file")
            text = file.read()
    except OSError as err:
        raise ExecutionError(f"env_file {path}: {err.strerror or err}") from err
    found: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            raise ExecutionError(f"env_file {path}, line {number}: not of the form NAME=value")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name] = value
    return found


def _open_at_once(path: str, flags: int) -> int:
    # A named pipe in place of the file would wait for a writer, and the thread that starts jobs with it.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def mark_of(instance: str, attempt: Attempt) -> str:
    """Return the value of the environment mark by which every descendant of *attempt* is found."""
    return f"{instance}:{attempt.tag}"


def build_environment(
    attempt: Attempt,
    process: Process,
    account: Account,
    base: dict[str, str],
    instance: str,
    resolve: Callable[[str], str],
) -> dict[str, str]:
    """Return the whole environment of *attempt*'s process.

    Later ones win: *base* (PATH, LANG), the account's, the job's time zone, ``env_file``, ``env``, and
    last what identifies the attempt, which a job cannot override.
    """
    env = {MARK: "", **base}  # the mark first: it is looked for in every process's environment
    env["HOME"], env["SHELL"] = account.home, account.shell
    # Both names: LOGNAME is what POSIX knows and cron sets, USER what people write.
    env["USER"] = env["LOGNAME"] = account.name
    env["TZ"] = attempt.job.timezone
    if process.env_file is not None:
        env.update(read_env_file(resolve(process.env_file)))
    for name, value in process.env:
        env[name] = resolve(value) if "${" in value else value
    env["ECHOSCHED_JOB"] = attempt.job.name
    env["ECHOSCHED_RUN"] = str(attempt.run)
    env["ECHOSCHED_SLOT"] = "" if attempt.slot is None else rfc3339(attempt.slot)
    env["ECHOSCHED_ATTEMPT"] = str(attempt.number)
    env[MARK] = mark_of(instance, attempt)
    return env

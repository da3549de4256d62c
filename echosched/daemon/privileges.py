"""Giving up privileges, and making the files a daemon needs while there still are some."""

from __future__ import annotations

import os
import stat

from echosched.errors import EX_PRIVILEGE, DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.settings import Settings


class Account:
    """The user and group a daemon runs as."""

    __slots__ = ("gid", "name", "uid")

    def __init__(self, uid: int, gid: int, name: str) -> None:
        self.uid = uid
        self.gid = gid
        self.name = name


def account(user: str | None, group: str | None) -> Account | None:
    """Return the account that the settings name, ``None`` when it is the present one.

    Raises ``DaemonError`` for an unknown name, and when changing to it would need root.
    """
    if user is None and group is None:
        return None
    import grp
    import pwd

    try:
        entry = pwd.getpwuid(int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid) if user else None
    except KeyError:
        raise DaemonError(f"daemon.user: {user!r}: no such user", exit_code=EX_PRIVILEGE) from None
    try:
        gid = None if group is None else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise DaemonError(f"daemon.group: {group!r}: no such group", exit_code=EX_PRIVILEGE) from None
    uid = entry.pw_uid if entry else os.getuid()
    if gid is None:
        gid = entry.pw_gid if entry else os.getgid()
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None
    if os.geteuid() != 0:
        name = user or group
        raise DaemonError(
            f"cannot become {name!r}: only root can (start it as root or as {name})", exit_code=EX_PRIVILEGE
        )
    return Account(uid, gid, entry.pw_name if entry else str(uid))


def drop(uid: int, gid: int, *, initgroups: bool = True) -> None:
    """Become *uid* and *gid* for good, with that user's supplementary groups (or just *gid*)."""
    import pwd

    if os.geteuid() == 0:
        try:
            name = pwd.getpwuid(uid).pw_name if initgroups else None
        except KeyError:
            name = None
        # Groups first: after setuid there is no right to change them.
        if name is not None:
            os.initgroups(name, gid)
        else:
            os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def prepare_directories(settings: Settings, owner: Account | None) -> None:
    """Make the directories of all files that the daemon writes (0750), owned by *owner*.

    Raises ``OSError`` naming the directory.
    """
    paths = settings.paths
    files = [paths.pidfile, paths.state, paths.beat, paths.log, paths.out, paths.socket, paths.db]
    directories = [os.path.dirname(path) for path in files if path]
    directories += [path for path in (paths.runs, paths.reports) if path]
    for directory in dict.fromkeys(directories):
        _make(directory, owner)


def give(path: str, owner: Account | None) -> None:
    """Make *owner* the owner of a file that may exist from the time when root ran this.

    Never of what a link leads to: the directory is the owner's, who could have put a second name of
    somebody else's file there.
    """
    if owner is None:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchown(descriptor, owner.uid, owner.gid)
    finally:
        os.close(descriptor)


def _make(directory: str, owner: Account | None) -> None:
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    if parent != directory:
        _make(parent, owner)
    try:
        os.mkdir(directory, 0o750)
    except FileExistsError:
        if not os.path.isdir(directory):
            raise
        return  # twenty starters at once
    os.chmod(directory, 0o750)  # noqa: S103 - exactly this, whatever the umask left of it
    if owner is not None:
        os.chown(directory, owner.uid, owner.gid)

"""The key of the web server: where it comes from, and how a presented one is judged.

Order: the environment's ``DASHBOARD_KEY``, then systemd's credential ``dashboard-key``, then the key file, then
a new one that is written to the key file (0600) for the next start. A key is compared in constant time. Wrong
keys are slowed down per client, but the right key is looked at first, so that nobody can lock the operator out.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from echosched.errors import UsageError
from echosched.protocols import Clock

ENVIRONMENT = "DASHBOARD_KEY"
CREDENTIAL = "dashboard-key"


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its *origin*: ``environment``, ``file`` or ``made`` (just now, so it must be named once)."""

    value: str
    origin: str
    path: Path | None = None

    def __repr__(self) -> str:
        """Leave the value out: a repr ends up in logs."""
        return f"Key(origin={self.origin!r}, path={self.path!r})"


def load_key(environ: Mapping[str, str], key_file: Path, host: str = "127.0.0.1") -> Key:
    """Return the key in force for a server on *host*; makes and stores one where there is none.

    Raises :class:`UsageError` for a key that no header could carry, for an empty or unreadable key file,
    for one that other users may read, and for a *host* that reaches other machines while nobody has chosen a
    key: one made now would be named on a terminal that the people behind those machines do not see, so
    opening a port to them must be a second, deliberate step.
    """
    value = environ.get(ENVIRONMENT, "").strip()
    if value:
        return Key(_checked(value, f"environment {ENVIRONMENT}"), "environment")
    given = environ.get("CREDENTIALS_DIRECTORY")
    existing = (_read(Path(given, CREDENTIAL)) if given else None) or _read(key_file)
    if existing is not None:
        return existing
    if not is_loopback(host):
        raise UsageError(
            f"web: will not listen on {host!r} without a key"
            f" (set {ENVIRONMENT}, or write one to {key_file}, or listen on 127.0.0.1)"
        )
    return _make(key_file)


def _read(path: Path) -> Key | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot read the web key: {error.strerror}") from error
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: the web key must be a regular file")
        if status.st_mode & 0o007:
            raise UsageError(f"{path}: everybody on this host can read the web key (chmod 600 {path})")
        text = file.read(4096).strip()
    if not text:
        raise UsageError(f"{path}: the web key is empty (remove the file and a new key is made)")
    return Key(_checked(text, str(path)), "file", path)


def _make(path: Path) -> Key:
    value = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise UsageError(f"{error.filename}: no place for the web key: {error.strerror}") from error
    # Written aside and linked into place: of two servers that start together one makes the key and
    # the other reads it, and nobody ever reads half of one.
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(aside, path)
    except FileExistsError:
        existing = _read(path)
        if existing is None:
            raise UsageError(f"{path}: the web key vanished while it was read (start again)") from None
        return existing
    except OSError as error:
        raise UsageError(f"{path}: cannot write the web key: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return Key(value, "made", path)


def _checked(value: str, place: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{place}: a web key must be printable ASCII without spaces")
    return value


def is_loopback(host: str) -> bool:
    """Tell whether listening on *host* reaches this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class KeyGuard:
    """Judges presented keys.

    Each client may be wrong *burst* times at once and once every *refill_seconds* after that; beyond, the
    verdict is ``wait`` until it slows down. A client that presents the right key is always served and
    its debt forgiven.
    """

    def __init__(self, key: str, clock: Clock, *, burst: int = 5, refill_seconds: float = 10.0) -> None:
        self._key = key.encode()
        self._clock = clock
        self._burst = burst
        self._refill_seconds = refill_seconds
        # Bounded: a sender of many source addresses must not grow the server. The oldest is forgotten.
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def right(self, presented: str) -> bool:
        """Tell whether *presented* is the key, in time that does not depend on where they differ."""
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._key)

    def wrong(self, client: str) -> float:
        """Note a wrong key of *client*; return 0, or the seconds that it has to wait before the next."""
        now = self._clock.monotonic()
        debt, since = self._debts.pop(client, (0.0, now))
        debt = max(0.0, debt - (now - since) / self._refill_seconds) + 1.0
        # The cap keeps the wait of a client that hammered for an hour at a minute or so.
        debt = min(debt, self._burst + 6.0)
        self._debts[client] = (debt, now)
        while len(self._debts) > 1024:
            self._debts.popitem(last=False)
        over = debt - self._burst
        return over * self._refill_seconds if over > 0 else 0.0

    def forgive(self, client: str) -> None:
        """Forget what *client* got wrong before."""
        if self._debts:
            self._debts.pop(client, None)

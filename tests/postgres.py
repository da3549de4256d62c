"""A real PostgreSQL for tests: Debian's programs, a directory and a port of its own, gone when the test is.

``PostgresServer`` starts ``initdb`` and ``postgres`` as an unprivileged user (they refuse root), with fsync as it is.
Should the tests themselves be killed, the kernel tells the server to end too (``setpriv --pdeathsig``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

USER = "echosched"
PASSWORD = "a-test's password/@:%"  # what must be escaped in an address must work, too
START_SECONDS = 60.0
STOP_SECONDS = 60.0


def programs() -> Path | None:
    """Return the directory of the newest server that Debian's packages have installed, if any."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0, default=None)
    return None if newest is None else newest.parent


class PostgresServer:
    """One server; started, stopped, killed, paused and restarted as the test wants it."""

    def __init__(self, bin_directory: Path, *, listen: str = "127.0.0.1", settings: str = "") -> None:
        self._bin = bin_directory
        self.listen = listen
        self._settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="echosched-pg-", dir="/tmp"))
        self.port = _free_port(listen)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._drop: list[str] = ["setpriv", "--pdeathsig", "INT"]
        self._owner: tuple[int, int] | None = None
        if os.geteuid() == 0:
            account = _account()
            self._owner = account.pw_uid, account.pw_gid
            self._drop += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def create(self) -> None:
        """Make the data directory."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if self._owner is not None:
            os.chown(self.directory, *self._owner)
            os.chown(password, *self._owner)
        words = ["initdb", "-D", str(self.directory / "data"), "-U", USER, "--pwfile", str(password)]
        words += ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(
            [*self._drop, str(self._bin / words[0]), *words[1:]],
            cwd="/",
            env=_environ(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb: {done.stdout}{done.stderr}")
        with open(self.directory / "data" / "pg_hba.conf", "a") as file:
            file.write("host all all all scram-sha-256\n")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None, "runs already"
        options = {
            "listen_addresses": self.listen,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "timezone": "Asia/Kathmandu",  # whoever relies on the server's zone shall notice
        }
        words = [*self._drop, str(self._bin / "postgres"), "-D", str(self.directory / "data")]
        for name, value in options.items():
            words += ["-c", f"{name}={value}"]
        words += self._settings.split()
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                words, cwd="/", env=_environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions (fast), SIGQUIT is a crash (immediate)."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_SECONDS)

    def restart(self, how: signal.Signals = signal.SIGINT, *, pause_seconds: float = 0.0) -> None:
        """Stop it, wait, and start it on the same port."""
        self.stop(how)
        time.sleep(pause_seconds)
        self.start()

    def remove(self) -> None:
        """Stop it and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """Return what the server said."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        import psycopg

        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.local("postgres"), connect_timeout=5).close()
            return True
        return False

    # ── databases ─────────────────────────────────────────────────────────────────────────────

    def dsn(self, database: str, host: str | None = None, port: int | None = None) -> str:
        """Return the address of *database* over TCP, with its password."""
        from urllib.parse import quote

        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{host or self.listen}:{port or self.port}/{database}"

    def local(self, database: str, user: str = USER) -> str:
        """Return the address over the server's own socket, which asks for no password."""
        return f"postgresql://{user}@/{database}?host={self.directory}&port={self.port}"

    def sql(self, database: str, *statements: str) -> None:
        """Carry out statements, each on its own."""
        import psycopg

        with contextlib.closing(psycopg.connect(self.local(database), autocommit=True)) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, database: str, question: str) -> list[tuple[Any, ...]]:
        """Return the rows that answer *question*."""
        import psycopg

        with contextlib.closing(psycopg.connect(self.local(database), autocommit=True)) as connection:
            return connection.execute(question.encode()).fetchall()

    def pids(self) -> list[int]:
        """Return the server and its processes, those of sessions included."""
        if self._process is None:
            return []
        server = self._process.pid
        return [server, *map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())]

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make a new database for the time of the context; gives its name."""
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            if self._process is not None:
                self.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("no account to run PostgreSQL as")


def _environ() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not re.match("PG|LC_|LANG", key)}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _free_port(host: str) -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind((host if host != "*" else "127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

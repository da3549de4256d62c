"""What ``doctor`` asks of the database that many hosts share: looked at, nothing is changed there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from echosched.cli.findings import Finding, bad, ok, warn
from echosched.errors import EchoschedError

if TYPE_CHECKING:
    from echosched.config.paths import Paths
    from echosched.config.settings import Config
    from echosched.store.postgres_probe import Look

SKEW_SECONDS = 1.0
"""As far as the daemon, too, finds two clocks the same."""

SLOW_SECONDS = 0.1
"""Each claim and each end waits for such answers, several times."""


def cluster(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether the shared database answers, and whether this host can work with it."""
    if config is None or config.cluster is None:
        return
    import asyncio

    from echosched.config.cluster import address
    from echosched.config.secrets import SecretResolver

    where = address(config.cluster.dsn)
    try:
        dsn = SecretResolver()(config.cluster.dsn)
        from echosched.store.postgres_probe import look

        seen = asyncio.run(look(dsn))
    except EchoschedError as error:
        # Errors end with their cure, in parentheses.
        parts = re.fullmatch(r"(.*\S) \(([^()]*)\)", str(error))
        finding, cure = (parts[1], parts[2]) if parts else (str(error), "correct [cluster] dsn")
        yield bad("cluster", finding, cure)
        return
    yield from judge(seen, where)


def judge(seen: Look, where: str) -> Iterator[Finding]:
    """Say what the *seen* database, shown to people as *where*, means for this host."""
    answers = f"{where}: PostgreSQL {seen.server} answers in {seen.seconds * 1000:.0f} ms"
    if seen.standby:
        yield bad(
            "cluster", f"{where}: a standby, which takes no writes", "name the primary in [cluster] dsn"
        )
    elif seen.seconds > SLOW_SECONDS:
        yield warn("cluster", answers, "a database nearer to the hosts: each run waits for several answers")
    else:
        yield ok("cluster", answers)
    yield _tables(seen)
    if abs(seen.skew_seconds) > SKEW_SECONDS:
        side = "ahead of" if seen.skew_seconds > 0 else "behind"
        yield warn(
            "cluster clock",
            f"this host's is {abs(seen.skew_seconds):.1f} s {side} the database's, by which slots are judged",
            "set it, or let ntpd or chronyd do so",
        )
    else:
        yield ok("cluster clock", f"as the database's (within {max(0.001, abs(seen.skew_seconds)):.3f} s)")


def _tables(seen: Look) -> Finding:
    grant = f"GRANT CREATE ON DATABASE {seen.database} TO {seen.role}"
    if seen.version is None:
        return bad(
            "cluster tables",
            f"they are there, but role {seen.role} may not read them",
            "let all hosts use the role that made them",
        )
    if seen.version > seen.newest:
        return bad(
            "cluster tables",
            f"version {seen.version}; this program knows only up to {seen.newest}",
            "upgrade EchoSched on this host",
        )
    if seen.version == 0:
        if not seen.may_create:
            return bad(
                "cluster tables", f"none yet, and role {seen.role} may not make them", f"{grant} (in psql)"
            )
        return ok("cluster tables", "none yet: the first start makes them")
    if seen.denied:
        return bad(
            "cluster tables",
            f"role {seen.role} may not read and write all of them ({', '.join(seen.denied[:3])})",
            "let all hosts use the role that made them",
        )
    older = f"; the next start brings them up to {seen.newest}" if seen.version < seen.newest else ""
    return ok("cluster tables", f"version {seen.version}, role {seen.role} may read and write them{older}")


CHECKS = (cluster,)

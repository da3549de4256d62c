"""Who takes part: the rows of instances, their heartbeats, and what operators do with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any

from echosched.errors import Conflict, NotFound
from echosched.model import Instance
from echosched.store.postgres_link import Connection
from echosched.store.postgres_queries import execute, fetch

MOST_TOLD = 7_900
"""PostgreSQL's notifications take a few bytes more."""


async def instances(connection: Connection) -> list[Instance]:
    """Return all instances by name, each with the jobs that it defines otherwise than most living ones."""
    rows = await fetch(connection, "instances")
    usual = _usual(row[14] for row in rows if row[6])
    return [
        Instance(
            name=row[0],
            host=row[1],
            pid=row[2],
            version=row[3],
            started_at=row[4].astimezone(UTC),
            heartbeat_at=row[5].astimezone(UTC),
            alive=row[6],
            capacity=row[7],
            labels=tuple(row[8]),
            running=row[9],
            taken=row[10],
            lag_seconds=row[11],
            clock_skew_seconds=row[12],
            draining=row[13],
            jobs=len(row[14]),
            differs=tuple(sorted(job for job, digest in usual.items() if row[14].get(job) != digest)),
        )
        for row in rows
    ]


def _usual(books: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return for each job the definition that most instances have (of equally frequent ones the first by text)."""
    votes: dict[str, Counter[str]] = {}
    for book in books:
        for job, digest in book.items():
            votes.setdefault(job, Counter())[digest] += 1
    return {job: min(count, key=lambda digest: (-count[digest], digest)) for job, count in votes.items()}


async def drain(connection: Connection, name: str, *, draining: bool) -> None:
    """Let an instance start nothing more, or again."""
    if not await fetch(connection, "drain", {"name": name, "draining": draining}):
        raise _unknown(name)
    await tell(connection, op="drain", instance=name, draining=draining)


async def remove(connection: Connection, name: str) -> None:
    """Forget an instance that lives no more."""
    rows = await fetch(connection, "is_alive", {"name": name})
    if not rows:
        raise _unknown(name)
    if rows[0][0]:
        raise Conflict(f"instance {name}: it is alive (stop it first: echoschedd stop on its host)")
    await execute(connection, "remove", {"name": name})


async def tell(connection: Connection, **message: Any) -> None:
    """Let all instances hear *message* when the transaction commits; one too long is as one they missed."""
    text = json.dumps(message)
    if len(text) > MOST_TOLD:
        text = json.dumps({"op": "missed"})
    await execute(connection, "tell", {"message": text})


def _unknown(name: str) -> NotFound:
    return NotFound(f"instance {name}: there is no such instance (echoschedd cluster status lists them)")

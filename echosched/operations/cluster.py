"""The verbs over many hosts: who takes part, who runs what, and how an instance is drained or forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from echosched.clock import rfc3339
from echosched.errors import EchoschedError, StoreError, UsageError
from echosched.model import Instance, Run, State

SHORT_SECONDS = 1.5
"""``status`` waits no longer for a database that does not answer: its reader waits two seconds for us."""

MAX_RUNNING = 1000


class Fleet(Protocol):
    """What the store of many hosts offers beside the store's own promises."""

    async def instances(self) -> list[Instance]:
        """Return all instances that ever joined and were not removed, by name."""

    async def drain(self, name: str, *, draining: bool = True) -> None:
        """Let an instance start nothing more, or again; raises ``NotFound``."""

    async def remove(self, name: str) -> None:
        """Forget an instance; raises ``NotFound``, and ``Conflict`` while it is alive."""

    async def history(self, *, states: Sequence[State] = (), limit: int = 50) -> list[Run]:
        """Return runs, newest first."""


@dataclass(frozen=True, slots=True)
class Membership:
    """This host's part in a cluster: the store, its own name there, and where the database is, without secrets."""

    fleet: Fleet
    instance: str
    database: str


class ClusterOperations:
    """The cluster's verbs; all but :meth:`cluster` raise ``UsageError`` on a host that is alone."""

    def __init__(self, membership: Membership | None) -> None:
        self._membership = membership

    async def cluster(self) -> dict[str, Any] | None:
        """Return who takes part, with the runs of each; ``None`` on a host that is alone."""
        if self._membership is None:
            return None
        return await describe(self._membership)

    async def drain(self, instance: str | None = None, draining: bool = True) -> dict[str, Any]:
        """Let *instance* (default: this one) start no more runs, or again; what it runs goes on."""
        membership = self._member()
        name = instance or membership.instance
        await membership.fleet.drain(name, draining=draining)
        return {"instance": name, "draining": draining}

    async def remove_instance(self, instance: str) -> dict[str, Any]:
        """Forget *instance*, which must be dead; its runs stay in the history."""
        membership = self._member()
        if instance == membership.instance:
            raise UsageError(
                f"instance {instance}: is this one, and alive (stop it, and remove it from another)"
            )
        await membership.fleet.remove(instance)
        return {"instance": instance}

    async def _cluster_in_short(self) -> dict[str, Any] | None:
        """Return what ``status`` shows, also while the database is away."""
        if self._membership is None:
            return None
        try:
            async with asyncio.timeout(SHORT_SECONDS):
                return await describe(self._membership)
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"{self._membership.database}: no answer within {SHORT_SECONDS:g} s"
            return {**_head(self._membership), "instances": None, "error": reason}

    def _member(self) -> Membership:
        if self._membership is None:
            raise alone()
        return self._membership


def alone() -> EchoschedError:
    """Return the error of whoever asks a host without ``[cluster]`` for others."""
    return UsageError("cluster: this host is alone (there is no [cluster] in its configuration)")


async def describe(membership: Membership) -> dict[str, Any]:
    """Return ``cluster status --json``: each instance with the runs that it has under way, oldest first."""
    instances = await membership.fleet.instances()
    running = await membership.fleet.history(states=[State.RUNNING], limit=MAX_RUNNING)
    rows = []
    for instance in instances:
        own = [_run(run) for run in reversed(running) if run.owner == instance.name]
        rows.append({**instance.as_dict(), "runs": own})
    return {**_head(membership), "instances": rows}


def _head(membership: Membership) -> dict[str, Any]:
    return {"instance": membership.instance, "database": membership.database}


def _run(run: Run) -> dict[str, Any]:
    started = None if run.started_at is None else rfc3339(run.started_at)
    return {"run": run.run, "job": run.job, "attempt": run.attempt, "started_at": started}

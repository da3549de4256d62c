"""All jobs as the dashboard lists them, put together where it costs the scheduler least.

What does not change of thousands of jobs is asked for once, what changes comes in one small answer,
last runs are read from the file, and those that have ended never again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from echosched.clock import from_micros, rfc3339
from echosched.operations.stored import Ask
from echosched.protocols import Facts

Reader = Callable[[Sequence[int]], Awaitable[dict[int, Facts]]]


class Jobs:
    """Keeps what was learnt of the jobs; *ask* asks the worker (or the records, where there is none)."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._version = ""
        self._definitions: dict[str, Facts] = {}
        self._ended: dict[int, Facts] = {}
        self._turn = asyncio.Lock()

    async def documents(self, last_runs: Reader | None) -> list[Facts]:
        """Return all jobs by name; without *last_runs* the worker is asked for each last run, too."""
        async with self._turn:
            roster = await self._ask("roster")
            if roster["version"] != self._version:
                known = await self._ask("definitions")
                self._version, self._definitions = known["version"], known["jobs"]
            numbers = [row[5] for row in roster["rows"] if row[5] is not None]
            found = await self._last_runs(numbers, last_runs)
        running: dict[str, list[Facts]] = {}
        for live in roster["running"]:
            running.setdefault(live["job"], []).append(live)
        documents = []
        for name, slot, enabled, paused, parked, last in roster["rows"]:
            document: Facts = {
                **self._definitions.get(
                    name, {"name": name, "description": "", "schedule": "", "timezone": "UTC"}
                ),
                "enabled": enabled,
                "paused": paused,
                "parked": parked,
                "next_at": None if slot is None else rfc3339(from_micros(slot)),
                "last_run": found.get(last),
                "running": running.get(name, []),
            }
            documents.append(document)
        documents.sort(key=lambda document: str(document["name"]))
        return documents

    async def _last_runs(self, numbers: Sequence[int], read: Reader | None) -> dict[Any, Facts]:
        if read is None:
            rows = await self._ask("jobs", details=False)
            return {row["last_run"]["run"]: row["last_run"] for row in rows if row["last_run"] is not None}
        found = {number: self._ended[number] for number in numbers if number in self._ended}
        found |= await read([number for number in numbers if number not in found])
        self._ended = {number: row for number, row in found.items() if row["ended_at"] is not None}
        return found

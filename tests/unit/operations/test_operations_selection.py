"""History by state, where the store's word and the shown one differ."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from echosched.model import Run, State, Trigger
from echosched.operations.selection import rows_matching
from echosched.protocols import Facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Shelf:
    """Runs 1 to *count*, all ``running`` in the store; every *waiting*-th is shown as ``queued``."""

    def __init__(self, count: int, waiting: int) -> None:
        self.count, self.waiting = count, waiting
        self.asked: list[dict[str, Any]] = []

    async def fetch(self, *, states: Sequence[State], limit: int, before_run: int | None = None) -> list[Run]:
        self.asked.append({"states": set(states), "limit": limit})
        newest = self.count if before_run is None else before_run - 1
        numbers = range(newest, max(newest - limit, 0), -1)
        kept = numbers if State.RUNNING in states else []
        return [
            Run(
                run=n,
                job="a",
                slot=None,
                trigger=Trigger.MANUAL,
                attempt=1,
                state=State.RUNNING,
                queued_at=NOW,
            )
            for n in kept
        ]

    async def rows(self, runs: Sequence[Run]) -> list[Facts]:
        shown = [(run.run, "queued" if run.run % self.waiting == 0 else "running") for run in runs]
        return [{"run": number, "state": state} for number, state in shown]


@pytest.mark.parametrize("limit", [0, 1, 3, 50, 1000])
async def test_the_shown_state_decides_and_no_page_hides_one(limit: int) -> None:
    shelf = Shelf(450, waiting=90)
    found = await rows_matching({"states": [State.QUEUED], "limit": limit}, shelf.fetch, shelf.rows)
    assert [row["run"] for row in found] == [450, 360, 270, 180, 90][:limit]
    found = await rows_matching({"states": [State.RUNNING], "limit": limit}, shelf.fetch, shelf.rows)
    assert [row["run"] for row in found] == [n for n in range(450, 0, -1) if n % 90][:limit]


@pytest.mark.parametrize("states", [[], [State.FAILED], [State.QUEUED, State.RUNNING]])
async def test_where_both_or_none_are_wanted_the_store_is_asked_once_and_as_told(states: list[State]) -> None:
    shelf = Shelf(450, waiting=90)
    await rows_matching({"states": states, "limit": 5}, shelf.fetch, shelf.rows)
    assert shelf.asked == [{"states": set(states), "limit": 5}]

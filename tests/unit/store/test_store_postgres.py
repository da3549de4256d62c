"""What the PostgreSQL store keeps in memory, while the server is away."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from echosched.errors import StoreError, StoreUnavailable
from echosched.model import Started
from echosched.store import postgres

ONE = Started(1, 1, datetime(2026, 1, 1, tzinfo=UTC), None)


class Away(postgres.PostgresStore):
    """A store whose server answers, once asked to, that it is not there."""

    def __init__(self, error: StoreError) -> None:
        super().__init__("postgresql://127.0.0.1:1/nowhere")
        self.error = error
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def transact(self, work: Any, *, single: bool = False) -> Any:
        self.asked.set()
        await self.answers.wait()
        raise self.error


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_STARTS_WAIT_SECONDS", 0.05)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("not allowed")])
async def test_starts_that_cannot_be_written_stay_noted(quick: None, error: StoreError) -> None:
    store = Away(error)
    store.started([ONE])
    await store.asked.wait()
    store.answers.set()
    async with asyncio.timeout(30):
        while store._flush_timer is None:
            await asyncio.sleep(0)
    assert store._starts == [ONE]
    store._cancel_flush()


async def test_a_close_while_starts_are_written_in_vain_leaves_nothing_planned(quick: None) -> None:
    store = Away(StoreUnavailable("away"))
    store.started([ONE])
    await store.asked.wait()
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    store.answers.set()
    await closing
    assert store._flush_timer is None
    assert store._flushing is not None
    assert store._flushing.done()

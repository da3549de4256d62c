"""What an instance makes of what should not happen: odd answers, odd messages, a database that answers by halves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from echosched.errors import StoreUnavailable
from echosched.model import State

from . import test_cluster_instances as cluster
from .instances import SHORT_LEASE, Instance, ended, job, until

MakeInstance = cluster.MakeInstance
make = cluster.make


async def test_an_unexpected_error_in_taking_runs_is_told_and_they_are_taken_again(
    make: MakeInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echosched.store.postgres_tickets.FAILED_SECONDS", 0.1)
    one = make("a")
    await one.begin(job("task"))
    await ended(one, await one.scheduler.trigger("task"))
    real, calls = one.store.take, list[Any]()

    async def odd(*asked: Any) -> Any:
        calls.append(asked)
        if len(calls) == 1:
            raise ValueError("'half' is not a valid State")
        return await real(*asked)

    one.store.take = odd  # type: ignore[method-assign]
    run = await one.scheduler.trigger("task")
    await until(lambda: run in one.started, "the run begins all the same")
    assert len(calls) > 1
    assert "taking runs failed" in caplog.text


async def say(instance: Instance, payload: str) -> None:
    """Tell all instances *payload*, as another program on the database could."""
    link = instance.store.link
    async with link.pool.connection() as connection:
        await connection.execute("SELECT pg_notify(%s, %s)", (link.schema, payload))


async def hears(instance: Instance, heard: list[dict[str, Any]], said: str) -> None:
    """Say something again and again, since it may not be listening yet, until *instance* has *heard* it."""

    async def told() -> bool:
        await say(instance, json.dumps({"op": said}))
        return {"op": said} in heard

    await until(told, f"{instance.name} hears")


@pytest.mark.parametrize(
    "payload", ['{"op": "later", "micros": 10000000000000000000000000}', '{"op": "broken"}', "[1", "1e999"]
)
async def test_a_message_that_cannot_be_followed_makes_nobody_deaf(
    make: MakeInstance, caplog: pytest.LogCaptureFixture, payload: str
) -> None:
    one = make("a")
    heard: list[dict[str, Any]] = []
    real = one.scheduler.worker._hear

    def hear(message: dict[str, Any]) -> None:
        heard.append(message)
        if message["op"] == "broken":
            raise RuntimeError("can't start new thread")
        real(message)

    one.scheduler.worker._hear = hear
    await one.begin(job("task"))
    await hears(one, heard, "before")
    missed = heard.count({"op": "missed"})
    await say(one, payload)
    await hears(one, heard, "after")
    assert heard.count({"op": "missed"}) == missed, "the connection that listens was kept"
    if payload.startswith("{"):
        assert "could not be followed" in caplog.text


async def test_listening_is_begun_anew_whatever_ended_it(
    make: MakeInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echosched.store.postgres_tickets.FAILED_SECONDS", 0.1)
    one = make("a")
    worker, heard, told = one.scheduler.worker, list[dict[str, Any]](), list[str]()
    monkeypatch.setattr(worker, "_hear", heard.append)

    def broken(payload: str) -> bool:
        told.append(payload)
        raise RuntimeError("nobody thought of this")

    await one.begin(job("task"))
    await hears(one, heard, "before")
    monkeypatch.setattr(worker, "_told", broken)
    await one.scheduler.trigger("task")
    await until(lambda: told, "it is told of a ticket")
    monkeypatch.undo()
    monkeypatch.setattr(worker, "_hear", heard.append)
    await hears(one, heard, "after")
    assert "listening to the others failed" in caplog.text


async def test_a_reload_in_an_outage_is_made_up_for_when_that_is_over(
    make: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [job("often", "every 7h"), job("rare", "every 9h")]
    one, other = await cluster.two(make, *old)
    new = {each.name: each for each in (job("often", "every 5h", definition="newer"), old[1])}

    async def away(*work: Any, **options: Any) -> Any:
        error = StoreUnavailable("the database is away")
        one.store.on_fault(error)
        raise error

    monkeypatch.setattr(one.store, "transact", away)
    monkeypatch.setattr(one.scheduler.contact, "_regained", away)
    with pytest.raises(StoreUnavailable):
        await one.scheduler.apply(new)
    await asyncio.sleep(1.1)  # intervals count from whole seconds
    await other.scheduler.apply(new)
    await other.scheduler.roster.pause("often")
    monkeypatch.undo()

    def agreed() -> bool:
        here, there = (each.scheduler.roster.entry("often") for each in (one, other))
        return here.anchor_at == there.anchor_at and here.paused and one.store.up.is_set()

    await until(agreed, "both count from the same instant")
    await until(lambda: alike(one), "the others know of its jobs")
    assert (await one.store.load_jobs())["often"].paused
    await one.scheduler.roster.resume("often")
    await until(lambda: not other.scheduler.roster.entry("often").paused)
    slots = {each.scheduler.roster.entry("often").slot for each in (one, other)}
    assert len(slots) == 1
    assert None not in slots


async def alike(instance: Instance) -> bool:
    return all(not each.differs for each in await instance.store.instances())


async def test_an_instance_whose_beats_hang_takes_nothing_until_they_go_through(make: MakeInstance) -> None:
    one = make("a", lease=SHORT_LEASE)
    await one.begin(job("task"))
    await ended(one, await one.scheduler.trigger("task"))
    real, taken = one.store.take, list[int]()

    async def counted(*asked: Any) -> Any:
        runs, more = await real(*asked)
        taken.extend(run.run for run in runs)
        return runs, more

    one.store.take = counted  # type: ignore[method-assign]
    contact = one.scheduler.contact
    async with one.store.link.lone_connection() as connection:
        await connection.execute("BEGIN")
        await connection.execute("SELECT * FROM instances FOR UPDATE")
        await until(lambda: contact.up and not contact.certain, "its lease may be over")
        run = await one.scheduler.trigger("task")
        await asyncio.sleep(1.0)
        assert taken == []
        assert run not in one.started
        await connection.execute("ROLLBACK")
    assert run is not None
    assert (await ended(one, run)).state is State.SUCCEEDED
    assert one.started.count(run) == 1

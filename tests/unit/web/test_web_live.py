"""The event stream: fan-out, resumption, status, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from echosched.web import live
from echosched.web.live import EventHub, wire
from echosched.web.reads import SharedReads


async def messages(response, count, kind="journal"):
    """Read *count* messages of a kind: journal events as (id, data), others as data."""
    found, current = [], {}
    async with asyncio.timeout(30):
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                current[name] = value
                continue
            if "data" in current and current.get("event", "journal") == kind:
                data = json.loads(current["data"])
                found.append((current["id"], data) if kind == "journal" else data)
                if len(found) == count:
                    return found
            current = {}
    raise AssertionError("the stream ended early")


@contextlib.asynccontextmanager
async def stream(browser, key, query="", headers=None):
    async with browser.session.get(
        browser.url + "/api/events" + query, headers={"X-Dash-Key": key, **(headers or {})}
    ) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response


async def test_a_page_hears_of_the_status_first_and_of_events_as_they_happen(browser, backend, key):
    async with stream(browser, key) as response:
        (status,) = await messages(response, 1, "status")
        assert status["health"] == "ok"
        backend.emit("tick", tick=7)
        ((event_id, event),) = await messages(response, 1)
        assert (event_id, event["tick"]) == ("1", 7)


async def test_a_page_resumes_behind_the_last_event_it_saw(browser, backend, key):
    for number in range(1, 6):
        backend.emit("tick", tick=number)
    for options in ({"query": "?after=2"}, {"headers": {"Last-Event-ID": "2"}}):
        async with stream(browser, key, **options) as response:
            got = await messages(response, 3)
            assert [event["tick"] for _, event in got] == [3, 4, 5]
            backend.emit("tick", tick=99)
            ((_, event),) = await messages(response, 1)
            assert event["tick"] == 99
        backend.events.pop()


async def test_a_place_that_is_gone_is_answered_with_a_reset_and_what_comes_next(browser, backend, key):
    backend.emit("tick", tick=1)
    async with stream(browser, key, "?after=nonsense") as response:
        await messages(response, 1, "reset")
        backend.emit("tick", tick=2)
        ((_, event),) = await messages(response, 1)
        assert event["tick"] == 2


async def test_many_pages_cost_one_follower(browser, backend, key):
    async with contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(stream(browser, key)) for _ in range(20)]
        for page in pages:
            await messages(page, 1, "status")
        backend.emit("tick", tick=1)
        for page in pages:
            ((_, event),) = await messages(page, 1)
            assert event["tick"] == 1
        assert backend.follows == 1


async def test_a_stop_is_told_to_open_pages(browser, backend, key):
    async with stream(browser, key) as response:
        await messages(response, 1, "status")
        await browser.post("/api/automations/stop")
        (status,) = await messages(response, 1, "status")
        assert status["running"] is False


async def test_a_page_that_fell_behind_the_ring_is_told_to_start_over(backend, monkeypatch):
    monkeypatch.setattr(live, "RING_EVENTS", 3)
    hub = EventHub(backend)
    listener = hub.listen(None)
    assert b"event: status" in await anext(listener)
    for number in range(10):
        backend.emit("tick", tick=number)
    async with asyncio.timeout(30):
        chunk = b""
        while b'"tick":9' not in chunk:
            chunk += await anext(listener)
    assert b"event: reset" in chunk
    await listener.aclose()
    await hub.close()


async def test_nobody_listening_leaves_no_task_behind(backend, monkeypatch):
    monkeypatch.setattr(live, "_LINGER_SECONDS", 0.0)
    hub = EventHub(backend)
    before = len(asyncio.all_tasks())
    listener = hub.listen(None)
    await anext(listener)
    await listener.aclose()
    async with asyncio.timeout(30):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("text", ["<script>", "a\nb", "\u2028", "\x00", "data: x\n\nevent: y"])
def test_no_content_can_break_out_of_its_message(text):
    message = wire({"error": text}, event_id=f"1:{text}").decode()
    assert message.endswith("\n\n")
    assert message.count("\n\n") == 1
    lines = message.rstrip("\n").split("\n")
    assert len(lines) == 2
    assert json.loads(lines[1].removeprefix("data: ")) == {"error": text}


class SteppingClock:
    def __init__(self):
        self.at = 100.0

    def monotonic(self):
        return self.at


async def test_dear_answers_are_kept_longer_but_never_long(backend):
    clock = SteppingClock()
    reads = SharedReads(backend, clock, ttl_seconds=0.5)
    took = 0.0

    async def slow(op):
        clock.at += took

    backend.delay = slow
    for took, kept in ((0.0, 0.5), (0.1, 2.0), (9.0, 2.5)):
        reads.forget()
        backend.calls.clear()
        await reads.ask("jobs")
        clock.at += kept - 0.01
        await reads.ask("jobs")
        assert len(backend.calls) == 1, took
        clock.at += 0.02
        await reads.ask("jobs")
        assert len(backend.calls) == 2, took

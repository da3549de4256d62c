"""The socket: real connections to a real server over a scheduler in memory."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echosched.clock import SystemClock, from_micros, rfc3339
from echosched.control import protocol
from echosched.control.aio import AsyncControlClient
from echosched.control.client import ControlClient
from echosched.control.server import ControlServer
from echosched.errors import ConfigError, NotFound, NotRunning, Unreachable, UsageError
from echosched.model import CallableAction, CommandAction, Job
from echosched.operations import OPERATIONS, Operations
from echosched.schedule import parse_schedule
from echosched.scheduler import Scheduler
from echosched.testing import MemoryStore


class NoExecutor:
    async def start(self, attempt: Any) -> Any:
        raise AssertionError("nothing is started here")

    async def close(self) -> None:
        return None


@dataclass
class Daemon:
    path: str
    scheduler: Scheduler
    client: AsyncControlClient


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    store = MemoryStore()
    await store.open()
    scheduler = Scheduler(store=store, executor=NoExecutor(), clock=SystemClock())
    jobs = {
        "brief": Job("brief", CommandAction("true"), parse_schedule("0 8 * * *"), "0 8 * * *"),
        "local": Job(
            "local",
            CallableAction(print),
            parse_schedule("@yearly", "Europe/Berlin"),
            "@yearly",
            "Europe/Berlin",
        ),
    }
    await scheduler.load(jobs)
    scheduler.roster.arm_all()

    async def reload() -> dict[str, Any]:
        raise ConfigError(["a.toml: one: bad", "a.toml: two: bad"])

    operations = Operations(
        scheduler, output_path=lambda run, attempt: None, reload=reload, journal_path=str(tmp_path / "j")
    )
    path = str(tmp_path / "s.sock")
    server = ControlServer(operations, path)
    await server.start()
    yield Daemon(path, scheduler, AsyncControlClient(path))
    await server.close()
    await store.close()


async def test_the_socket_is_for_its_owner_alone(daemon: Daemon) -> None:
    assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o600


async def test_jobs_carry_the_fields_of_the_contract(daemon: Daemon) -> None:
    rows = await daemon.client.call("jobs")
    fields = {"name", "description", "schedule", "timezone", "enabled", "paused", "next_at", "last_run"}
    assert fields <= set(rows[0])
    assert rows[0]["next_at"].endswith("T08:00:00.000000Z")


async def test_next_merges_all_jobs_in_order(daemon: Daemon) -> None:
    rows = await daemon.client.call("next", n=400)
    assert len(rows) == 400
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert {row["job"] for row in rows} == {"brief", "local"}
    assert all(row["local"].endswith(("+01:00", "+02:00")) for row in rows if row["job"] == "local")


async def test_errors_come_back_as_what_they_were(daemon: Daemon) -> None:
    with pytest.raises(NotFound, match="did you mean brief"):
        await daemon.client.call("trigger", job="brif")
    with pytest.raises(UsageError, match="did you mean status"):
        await daemon.client.call("statsu")
    with pytest.raises(UsageError, match="unexpected keyword"):
        await daemon.client.call("status", nonsense=1)
    with pytest.raises(ConfigError) as caught:
        await daemon.client.call("reload")
    assert caught.value.problems == ("a.toml: one: bad", "a.toml: two: bad")


async def test_the_blocking_client_speaks_the_same(daemon: Daemon) -> None:
    def ask() -> Any:
        with ControlClient(daemon.path) as client:
            return client.call("status"), client.call("jobs")

    status, jobs = await asyncio.to_thread(ask)
    assert status["jobs"] == {"total": 2, "paused": 0, "parked": 0}
    assert len(jobs) == 2


async def test_nobody_listening_and_nobody_answering_differ(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        ControlClient(str(tmp_path / "none")).call("status")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute"))
        listener.listen()
        with (
            pytest.raises(Unreachable, match="no answer"),
            ControlClient(str(tmp_path / "mute"), timeout=0.05) as c,
        ):
            c.call("status")


async def test_a_stream_may_be_silent_for_longer_than_any_answer_takes(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for line in ({"ok": True, "more": True, "data": "late"}, {"ok": True}):
            await asyncio.sleep(0.1)
            writer.write(protocol.encode(line))
        await writer.drain()
        writer.close()

    def listen() -> list[Any]:
        with ControlClient(str(tmp_path / "slow"), timeout=0.05) as client:
            return list(client.stream("follow"))

    async with await asyncio.start_unix_server(answer, str(tmp_path / "slow")):
        assert await asyncio.to_thread(listen) == ["late"]


async def raw(daemon: Daemon, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(daemon.path, limit=4 << 20)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_an_overlong_line_is_refused_and_the_server_lives_on(daemon: Daemon) -> None:
    answer = json.loads(await raw(daemon, b"x" * (protocol.MAX_LINE + 10) + b"\n"))
    assert answer["error"]["code"] == "usage"
    assert await daemon.client.call("status")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200), st.sampled_from([b"[1]", b"{}", b'{"op":1}', b'{"op":"next","args":[]}'])
    )
)
async def test_garbage_gets_an_error_and_never_a_hang(daemon: Daemon, data: bytes) -> None:
    async with asyncio.timeout(30):
        answer = await raw(daemon, data.replace(b"\n", b" ") + b"\n")
    assert json.loads(answer)["ok"] is False


ARGUMENTS = st.dictionaries(
    st.sampled_from(["job", "n", "run", "start", "end", "since", "states", "offset", "limit", "attempt"]),
    st.one_of(
        st.none(),
        st.integers(),
        st.text(max_size=20),
        st.lists(st.text(max_size=5), max_size=3),
        st.booleans(),
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(OPERATIONS - {"follow", "follow_output", "wait", "trigger"})), ARGUMENTS)
async def test_hostile_arguments_get_an_answer_for_every_operation(
    daemon: Daemon, op: str, arguments: dict[str, Any]
) -> None:
    line = protocol.encode({"op": op, "args": arguments})
    async with asyncio.timeout(30):
        answer = json.loads(await raw(daemon, line))
    assert isinstance(answer["ok"], bool)
    if not answer["ok"]:
        assert answer["error"]["code"] != "internal", answer


async def test_a_silent_client_keeps_nobody_waiting(daemon: Daemon) -> None:
    idle = [await asyncio.open_unix_connection(daemon.path) for _ in range(50)]
    try:
        async with asyncio.timeout(30):
            assert await daemon.client.call("status")
    finally:
        for _, writer in idle:
            writer.close()


def test_every_operation_declares_only_types_that_the_socket_can_check() -> None:
    from echosched.control.server import _FITS

    for op in OPERATIONS:
        for parameter in list(inspect.signature(getattr(Operations, op)).parameters.values())[1:]:
            assert str(parameter.annotation) in _FITS, (op, parameter)


async def test_arguments_of_the_wrong_type_are_named(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="history: states: None is not a list of texts"):
        await daemon.client.call("history", states=None)
    with pytest.raises(UsageError, match="next: n: 'many' is not a whole number"):
        await daemon.client.call("next", n="many")


async def test_the_roster_is_small_and_names_the_version_of_what_it_leaves_out(daemon: Daemon) -> None:
    roster = await daemon.client.call("roster")
    assert [row[0] for row in roster["rows"]] == ["brief", "local"]
    name, slot, enabled, paused, parked, last_run = roster["rows"][0]
    assert from_micros(slot) == daemon.scheduler.roster.entries["brief"].slot
    assert (enabled, paused, parked, last_run) == (True, False, None, None)
    known = await daemon.client.call("definitions")
    assert known["version"] == roster["version"]
    assert known["jobs"][name]["schedule_english"]
    await daemon.client.call("pause", job="brief")
    again = await daemon.client.call("roster")
    assert again["rows"][0][3] is True
    assert again["version"] == roster["version"]
    await daemon.scheduler.apply({"brief": Job("brief", CommandAction("false"))}, max_concurrent=1)
    assert (await daemon.client.call("roster"))["version"] != roster["version"]


async def test_coming_slots_are_those_of_the_schedule_within_the_period(daemon: Daemon) -> None:
    now = daemon.scheduler.clock.now()
    end = now + timedelta(days=3)
    found = await daemon.client.call("coming", start=rfc3339(now - timedelta(days=3)), end=rfc3339(end))
    assert [from_micros(at).hour for at in found["brief"]] == [8, 8, 8]
    assert all(now < from_micros(at) < end for at in found["brief"])
    few = await daemon.client.call("coming", start=rfc3339(now), end=rfc3339(end), n=1)
    assert len(few["brief"]) == 1

"""A crowd, while jobs run: no server error, no added lag, flat memory; and clients that mean ill.

Short by default; ``ECHOSCHED_DEEP=1`` runs the minute with a hundred jobs a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from datetime import datetime

import aiohttp
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DEEP = bool(os.environ.get("ECHOSCHED_DEEP"))
CLIENTS = 50
SECONDS = 60 if DEEP else 6  # with the crowd, and as long without
TURNS = 6 if DEEP else 2
JOBS = 100 if DEEP else 20
PATHS = [
    "/api/automations/status",
    "/api/jobs?limit=50",
    "/api/jobs/j001",
    "/api/runs?limit=20",
    "/api/runs?state=failed",
    "/api/next?n=20",
    "/api/timeline",
    "/api/journal?n=50",
    "/api/metrics-summary",
    "/metrics",
    "/healthz",
    "/dashboard",
    "/static/app.js",
]


def config(jobs: int) -> str:
    return 'timezone = "UTC"\n[daemon]\ntick = "0"\n' + "".join(
        f'[job.j{n:03}]\nschedule = "every 1s"\ncommand = ["/bin/true"]\n' for n in range(jobs)
    )


def lags(instance, since: float) -> list[tuple[float, float]]:
    """Return slot (in seconds since the epoch) and dispatch lag of all scheduled runs since an instant."""
    found, before = [], None
    since_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    while True:
        page = instance.get(
            f"/api/runs?limit=1000&since={since_text}" + (f"&before_run={before}" if before else "")
        )
        found += [
            (datetime.fromisoformat(row["slot"]).timestamp(), row["lag_seconds"])
            for row in page["data"]
            if row["slot"] is not None and row["lag_seconds"] is not None
        ]
        before = page["next"]
        if before is None:
            return found


def all_began(instance, end: float) -> bool:
    """Tell whether slots behind *end* have come, and none before it waits any more."""

    def slots(query: str) -> list[float]:
        rows = instance.get(f"/api/runs?limit=1000{query}")["data"]
        return [datetime.fromisoformat(row["slot"]).timestamp() for row in rows if row["slot"] is not None]

    return max(slots("")) >= end and all(slot >= end for slot in slots("&state=queued"))


def at(found: list[float], part: float) -> float:
    return sorted(found)[int(len(found) * part)] if found else 0.0


async def crowd(url: str, key: str, seconds: float) -> tuple[dict[int, int], int]:
    """Let clients ask at random places, half of them also listening; answer how often each status came."""
    seen: dict[int, int] = {}
    heard = 0
    ends = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while time.monotonic() < ends:
            async with session.get(url + PATHS[turn % len(PATHS)]) as response:
                await response.read()
                seen[response.status] = seen.get(response.status, 0) + 1
            turn += 1
            # A person's page asks every few seconds; these are a hundred times as curious.
            await asyncio.sleep(0.05)

    async def listener(session: aiohttp.ClientSession) -> None:
        nonlocal heard
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), session.get(url + "/api/events") as response:
                seen[response.status] = seen.get(response.status, 0) + 1
                async for line in response.content:
                    heard += line.startswith(b"id: ")

    async with aiohttp.ClientSession(
        headers={"X-Dash-Key": key},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(None),
    ) as session:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(session, number))
            for _ in range(CLIENTS // 2):
                group.create_task(listener(session))
    return seen, heard


def test_a_crowd_neither_breaks_the_server_nor_delays_a_job(instance, aside, until, record_property):
    instance.configure(config(JOBS))
    instance.cli("start")
    instance.serve()
    key = instance.environ["DASHBOARD_KEY"]
    server = psutil.Process(instance.server.pid)
    worker = psutil.Process(instance.status()["worker_pid"])
    until(lambda: len(instance.get("/api/runs?state=succeeded&limit=1000")["data"]) >= JOBS)
    # Pools and caches fill, and the timeline to its 5,000 runs: what comes after must not grow.
    aside(crowd(instance.url, key, 45 if DEEP else 3))
    before = server.memory_info().rss
    began = time.time()
    phases: list[tuple[bool, float, float]] = []
    seen: dict[int, int] = {}
    heard = 0
    busy = {True: 0.0, False: 0.0}  # CPU seconds of the worker, with the crowd and without
    # Turn by turn: whatever else this machine does meets both alike.
    for turn in range(2 * TURNS):
        crowded, start, spent = turn % 2 == 1, time.time(), sum(worker.cpu_times()[:2])
        if crowded:
            answers, events = aside(crowd(instance.url, key, SECONDS / TURNS))
            seen = {status: seen.get(status, 0) + answers.get(status, 0) for status in {*seen, *answers}}
            heard += events
        else:
            time.sleep(SECONDS / TURNS)
        busy[crowded] += sum(worker.cpu_times()[:2]) - spent
        phases.append((crowded, start + 0.5, time.time()))
    after = server.memory_info().rss
    until(lambda: all_began(instance, phases[-1][2]))
    found: dict[bool, list[float]] = {True: [], False: []}
    for slot, lag in lags(instance, began):
        for crowded, start, end in phases:
            if start <= slot < end:
                found[crowded].append(lag)

    def figure(part: float) -> tuple[float, float]:
        return round(at(found[False], part) * 1000, 1), round(at(found[True], part) * 1000, 1)

    figures = {
        "requests": sum(seen.values()),
        "events_heard": heard,
        "runs": (len(found[False]), len(found[True])),
        "lag_p50_ms": figure(0.5),
        "lag_p95_ms": figure(0.95),
        "lag_p99_ms": figure(0.99),
        "worker_cpu_seconds": (round(busy[False], 2), round(busy[True], 2)),
        "growth_kib": (after - before) // 1024,
    }
    print(figures)
    for name, value in figures.items():
        record_property(name, value)
    assert set(seen) == {200}, seen
    assert sum(seen.values()) > CLIENTS * 5
    assert heard > 0
    assert len(found[True]) > JOBS * SECONDS * 0.4
    assert after - before < 24 * 1024 * 1024, figures
    # What the crowd costs the scheduler itself, however busy the machine is with the crowd.
    assert busy[True] < busy[False] * 1.5 + 0.05 * SECONDS, figures
    # Two cores carry the jobs, the crowd and the server at once: the median is what the scheduler adds.
    assert at(found[True], 0.5) < at(found[False], 0.5) + 0.25, figures


def test_slow_and_half_closed_clients_cost_nothing(instance):
    instance.cli("start")
    instance.serve()
    port = int(instance.url.rsplit(":", 1)[1])
    server = psutil.Process(instance.server.pid)
    instance.get("/api/jobs")
    idle_files, idle_memory = server.num_fds(), server.memory_info().rss

    def connect(data: bytes, *, eof: bool = False) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(data)
        if eof:
            client.shutdown(socket.SHUT_WR)
        return client

    head = (
        b"GET /api/jobs HTTP/1.1\r\nHost: localhost\r\nX-Dash-Key: "
        + instance.environ["DASHBOARD_KEY"].encode()
    )
    body = b"POST /api/jobs/hello/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\nX-Dash-Key: "
    body += instance.environ["DASHBOARD_KEY"].encode() + b"\r\n\r\n{"
    stuck = [connect(head) for _ in range(150)]
    stuck += [connect(body) for _ in range(50)]
    stuck += [connect(head, eof=True) for _ in range(50)]
    try:
        started = time.monotonic()
        for _ in range(20):
            assert instance.ask("GET", "/api/automations/status")[0] == 200
        assert time.monotonic() - started < 30
        # Heads are cut off after 10 s, bodies are answered with 408; what stays is nobody.
        deadline = time.monotonic() + 90
        while server.num_fds() > idle_files + 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert server.num_fds() <= idle_files + 3
        told = [client.recv(200) for client in stuck[150:200]]
        assert all(b" 408 " in answer.splitlines()[0] for answer in told if answer)
        assert any(told)
    finally:
        for client in stuck:
            client.close()
    assert server.memory_info().rss - idle_memory < 16 * 1024 * 1024
    assert instance.get("/api/runs")["data"] == []


def test_a_listener_that_stops_reading_is_let_go_and_costs_no_memory(instance, until):
    instance.configure(config(20))
    instance.cli("start")
    instance.serve()
    server = psutil.Process(instance.server.pid)
    instance.get("/api/jobs")
    before = server.memory_info().rss
    deaf = []
    for _ in range(20):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(instance.url.rsplit(":", 1)[1])))
        client.sendall(
            b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nX-Dash-Key: "
            + instance.environ["DASHBOARD_KEY"].encode()
            + b"\r\n\r\n"
        )
        deaf.append(client)
    time.sleep(30 if DEEP else 6)
    try:
        assert server.memory_info().rss - before < 24 * 1024 * 1024
        assert until(lambda: instance.ask("GET", "/healthz")[1].get("health") == "ok")
    finally:
        for client in deaf:
            client.close()

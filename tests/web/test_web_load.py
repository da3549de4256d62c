"""A crowd, while jobs run: no server error, no added lag, flat memory; and clients that mean ill.

Short by default; ``ECHOSCHED_DEEP=1`` runs the minute with a hundred jobs a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

import aiohttp
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DEEP = bool(os.environ.get("ECHOSCHED_DEEP"))
CLIENTS = 50
SECONDS = 60 if DEEP else 8
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


def lags(instance, since: str) -> list[float]:
    """Return the dispatch lags of scheduled runs since an instant, sorted."""
    found, before = [], None
    while True:
        page = instance.get(
            f"/api/runs?limit=1000&since={since}" + (f"&before_run={before}" if before else "")
        )
        found += [row["lag_seconds"] for row in page["data"] if row["lag_seconds"] is not None]
        before = page["next"]
        if before is None:
            return sorted(found)


def stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


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


def test_a_crowd_neither_breaks_the_server_nor_delays_a_job(instance, aside, record_property):
    instance.configure(config(JOBS))
    instance.cli("start")
    instance.serve()
    key = instance.environ["DASHBOARD_KEY"]
    server = psutil.Process(instance.server.pid)
    time.sleep(3)
    alone_since = stamp()
    time.sleep(SECONDS)
    alone = lags(instance, alone_since)
    aside(crowd(instance.url, key, 3))  # pools and caches fill: what comes after must not grow
    before = server.memory_info().rss
    crowd_since = stamp()
    seen, heard = aside(crowd(instance.url, key, SECONDS))
    after = server.memory_info().rss
    crowded = lags(instance, crowd_since)

    def at(found: list[float], part: float) -> float:
        return found[int(len(found) * part)] if found else 0.0

    figures = {
        "requests": sum(seen.values()),
        "events_heard": heard,
        "runs": len(crowded),
        "lag_p50_ms": (round(at(alone, 0.5) * 1000, 1), round(at(crowded, 0.5) * 1000, 1)),
        "lag_p95_ms": (round(at(alone, 0.95) * 1000, 1), round(at(crowded, 0.95) * 1000, 1)),
        "growth_kib": (after - before) // 1024,
    }
    print(figures)
    for name, value in figures.items():
        record_property(name, value)
    assert set(seen) == {200}, seen
    assert sum(seen.values()) > CLIENTS * 5
    assert heard > 0
    assert len(crowded) > JOBS * SECONDS * 0.5
    assert after - before < 24 * 1024 * 1024, figures
    # Two cores carry the jobs, the crowd and the server at once: the median is what the scheduler itself adds.
    assert at(crowded, 0.5) < at(alone, 0.5) + 0.25, figures


def test_slow_and_half_closed_clients_cost_nothing(instance):
    instance.cli("start")
    instance.serve()
    port = int(instance.url.rsplit(":", 1)[1])
    server = psutil.Process(instance.server.pid)
    instance.get("/api/jobs")
    idle_files, idle_memory = server.num_fds(), server.memory_info().rss

    def connect(data: bytes, *, eof: bool = False) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
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
        assert time.monotonic() - started < 15
        # Heads are cut off after 10 s, bodies are answered with 408; what stays is nobody.
        deadline = time.monotonic() + 60
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


def test_a_listener_that_stops_reading_is_let_go_and_costs_no_memory(instance):
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
        assert instance.get("/healthz")["health"] == "ok"
    finally:
        for client in deaf:
            client.close()

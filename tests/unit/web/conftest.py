"""A scheduler made of lists, behind the real web server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from echosched.clock import SystemClock
from echosched.errors import Conflict, NotFound, NotRunning, StartFailed
from echosched.web.server import WebServer, make_app

KEY = "the-right-key"
Facts = dict[str, Any]


class FakeBackend:
    """What the web server needs from a scheduler, in memory."""

    def __init__(self) -> None:
        self.running = True
        self.pid = 100
        self.health = "ok"
        self.stopping: Facts | None = None
        self.jobs = {name: self.job(name) for name in ("backup", "brief", "report", "selfheal")}
        self.runs: dict[int, Facts] = {}
        self.events: list[Facts] = []
        self.calls: list[tuple[str, Facts]] = []
        self.outputs: dict[int, str] = {}
        self.news = asyncio.Event()
        self.start_error: Exception | None = None
        self.delay: Callable[[str], Awaitable[None]] | None = None
        self.follows = 0
        self.statuses = 0

    def job(self, name: str) -> Facts:
        return {
            "name": name,
            "description": f"the job {name}",
            "schedule": "0 8 * * *",
            "timezone": "UTC",
            "enabled": True,
            "paused": False,
            "next_at": "2026-11-20T08:00:00.000000Z",
            "last_run": None,
        }

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"ts": "2026-11-20T07:00:00.000000Z", "event": event, **fields})
        self.news.set()
        self.news = asyncio.Event()

    async def status(self) -> Facts:
        self.statuses += 1
        return {
            "running": self.running,
            "pid": self.pid if self.running else None,
            "worker_pid": self.pid + 1 if self.running else None,
            "health": self.health if self.running else "stopped",
            "restarts": 0,
            "jobs": {"total": len(self.jobs), "paused": 0},
            "runs": {"running": 0, "queued": 0, "succeeded": 3, "failed": 1},
            "ready": self.running,
            "stopping": self.stopping,
            "last_exit": None if self.running else {"how": "signal 9", "at": None, "detail": "killed"},
        }

    async def call(self, op: str, /, **args: Any) -> Any:
        self.calls.append((op, args))
        if self.delay is not None:
            await self.delay(op)
        if not self.running:
            raise NotRunning("scheduler: not running")
        return getattr(self, f"do_{op}")(**args)

    def find(self, job: str) -> Facts:
        if job not in self.jobs:
            raise NotFound(f"job {job!r}: no such job")
        return self.jobs[job]

    def do_jobs(self) -> list[Facts]:
        return list(self.jobs.values())

    def do_recent(self, jobs: list[str]) -> dict[str, Facts]:
        return {job: {"recent": [], "usual_duration_seconds": None} for job in jobs}

    def do_job(self, job: str) -> Facts:
        return self.find(job)

    def do_trigger(self, job: str) -> Facts:
        self.find(job)
        run = len(self.runs) + 1
        self.runs[run] = {"run": run, "job": job, "state": "running", "attempt": 1, "trigger": "manual"}
        return {"run": run}

    def do_wait(self, run: int, timeout_seconds: float) -> Facts:
        return self.do_run(run)

    def do_run(self, run: int) -> Facts:
        if run not in self.runs:
            raise NotFound(f"run {run}: no such run")
        return self.runs[run]

    def do_history(
        self, job: str | None, n: int, before_run: int | None, states: Any, **_: Any
    ) -> list[Facts]:
        if job is not None and all(row["job"] != job for row in self.runs.values()):
            self.find(job)
        rows = [row for row in reversed(self.runs.values()) if job is None or row["job"] == job]
        rows = [row for row in rows if not states or row["state"] in states]
        return [row for row in rows if before_run is None or row["run"] < before_run][:n]

    def do_output(self, run: int, attempt: int | None, offset: int, limit: int) -> Facts:
        raw = self.outputs.get(self.do_run(run)["run"], "").encode()
        piece = raw[offset : offset + limit]
        done = self.runs[run]["state"] != "running"
        return {
            "text": piece.decode(errors="replace"),
            "next_offset": offset + len(piece),
            "size": len(raw),
            "done": done,
        }

    def do_cancel(self, run: int) -> Facts:
        row = self.do_run(run)
        if row["state"] != "running":
            raise Conflict(f"run {run}: has ended already")
        row["state"] = "cancelled"
        return {}

    def do_pause(self, job: str) -> Facts:
        self.find(job)["paused"] = True
        return {}

    def do_resume(self, job: str) -> Facts:
        self.find(job)["paused"] = False
        return {}

    def do_next(self, job: str | None, n: int) -> list[Facts]:
        names = [job] if job else list(self.jobs)
        return [
            {"job": self.find(name)["name"], "at": self.find(name)["next_at"], "local": "08:00"}
            for name in names
        ][:n]

    def do_timeline(self, **_: Any) -> Facts:
        return {"runs": list(self.runs.values()), "next": self.do_next(None, 10)}

    def do_reload(self) -> Facts:
        return {"jobs": len(self.jobs)}

    def do_metrics(self) -> Facts:
        return {}

    async def follow(self, after: str | None) -> AsyncIterator[tuple[str, Facts]]:
        self.follows += 1
        if after is not None and not after.isdecimal():
            raise Conflict("too far back")
        place = len(self.events) if after is None else int(after)
        while True:
            news = self.news
            while place < len(self.events):
                place += 1
                yield str(place), self.events[place - 1]
            await news.wait()

    async def journal(self, n: int, wanted: Callable[[Facts], bool]) -> tuple[list[Facts], str]:
        return [event for event in self.events if wanted(event)][-n:], str(len(self.events))

    async def start(self) -> int:
        if self.delay is not None:
            await self.delay("start")
        if self.start_error is not None:
            raise self.start_error
        if not self.running:
            self.running, self.pid = True, self.pid + 1
        return self.pid

    async def stop(self) -> None:
        self.running = False

    async def restart(self) -> int:
        self.pid += 1
        self.running = True
        return self.pid

    async def close(self) -> None:
        pass


class Browser:
    """A client with the key."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        headers = {"X-Dash-Key": KEY, **options.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        async with self.session.request(method, self.url + path, headers=headers, **options) as response:
            assert response.content_type == "application/json", await response.text()
            return response.status, await response.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, **options)


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def failing_start(backend: FakeBackend) -> FakeBackend:
    backend.running = False
    backend.start_error = StartFailed("scheduler: died before it was ready: exit code 70")
    return backend


class StandingClock(SystemClock):
    """A clock on which nothing grows old, however long a machine takes over a test."""

    def monotonic(self) -> float:
        return 1000.0


@pytest.fixture
def guard_seconds() -> float:
    """After how long an answer is 202; a test that means that sets less (parametrize)."""
    return 60.0


@pytest.fixture
async def server(backend: FakeBackend, guard_seconds: float) -> AsyncIterator[WebServer]:
    app = make_app(
        backend,
        key=KEY,
        allowed_hosts=("sched.example",),
        guard_seconds=guard_seconds,
        clock=StandingClock(),
    )
    server = WebServer(app, "127.0.0.1", 0)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def browser(server: WebServer) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession() as session:
        yield Browser(session, server.url)

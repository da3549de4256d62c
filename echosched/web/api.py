"""The handlers: validated parameters in, answers out. What they ask goes to the backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from aiohttp import web

from echosched.clock import EPOCH, rfc3339
from echosched.errors import EchoschedError, UsageError
from echosched.model import State
from echosched.protocols import Clock, Facts
from echosched.web import answers
from echosched.web.backend import Backend
from echosched.web.endpoints import Answer, Call
from echosched.web.joblist import page_of
from echosched.web.live import EventHub
from echosched.web.reads import Same, SharedReads

logger = logging.getLogger(__name__)

_READY_SECONDS = 3.0
_RECENT_AT_ONCE = 200
_ACTIVE = (State.QUEUED, State.RUNNING)


class Api:
    """All handlers of one server."""

    def __init__(self, backend: Backend, clock: Clock, hub: EventHub, guard_seconds: float) -> None:
        self._backend = backend
        self._clock = clock
        self._hub = hub
        self._guard_seconds = guard_seconds
        self.reads = SharedReads(backend, clock)
        # Set when the server leaves: streams end by themselves then, they have no last byte to wait for.
        self.leaving = asyncio.Event()

    async def _change(self, op: str, /, **args: Any) -> Any:
        try:
            return await self._backend.call(op, **args)
        finally:
            self.reads.forget()

    async def _shared(
        self, name: str, what: tuple[Any, ...], make: Callable[[], Awaitable[Facts]]
    ) -> web.Response:
        """Answer what *make* returns, encoded once for all who ask the same at about the same time."""

        async def encoded() -> bytes:
            document = {"ok": True, **await make()}
            # Beside the loop: a day's timeline takes long enough for others to notice.
            return await asyncio.to_thread(answers.encode, document)

        return answers.ready(await self.reads.share((name, *what), encoded))

    # ── the scheduler ─────────────────────────────────────────────────────────────────────────

    async def status(self, call: Call) -> Answer:
        """Answer ``status --json``."""
        return Answer({"data": await self.reads.status()})

    async def start(self, call: Call) -> Answer:
        """Start the scheduler."""
        try:
            pid = await self._backend.start()
        finally:
            self._turned()
        return Answer({"status": "Scheduler started", "pid": pid})

    async def stop(self, call: Call) -> Answer:
        """Stop the scheduler."""
        try:
            await self._backend.stop()
        finally:
            self._turned()
        return Answer({"status": "Scheduler stopped"})

    async def restart(self, call: Call) -> Answer:
        """Restart the scheduler."""
        try:
            pid = await self._backend.restart()
        finally:
            self._turned()
        return Answer({"status": "Scheduler restarted", "pid": pid})

    async def reload(self, call: Call) -> Answer:
        """Let the scheduler read its configuration again."""
        verdict = await self._change("reload")
        return Answer({"status": "Configuration reloaded", "data": verdict})

    def _turned(self) -> None:
        self.reads.forget()
        self._hub.poke()

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────

    async def jobs(self, call: Call) -> web.Response:
        """List jobs, a page at a time, each with how its latest runs went."""
        after = call["after"]
        how = {
            "text": call["q"],
            "only": call["only"],
            # Pages behind a name go by name.
            "sort": call["sort"] if after is None else "name",
            "down": call["down"] if after is None else False,
            "after": after,
            "offset": call["offset"],
            "limit": call["limit"],
        }

        jobs = await self.reads.ask("jobs")

        async def make() -> Facts:
            page = page_of(jobs, **how)
            rows = await self._with_recent(page.jobs) if call["recent"] else page.jobs
            more = page.found > call["offset"] + len(rows)
            return {
                "data": rows,
                "total": page.total,
                "found": page.found,
                "counts": page.counts,
                "next": rows[-1]["name"] if rows and more and how["sort"] == "name" else None,
            }

        return await self._shared("jobs", (Same(jobs), *how.values(), call["recent"]), make)

    async def _with_recent(self, jobs: list[Facts]) -> list[Facts]:
        found: dict[str, Facts] = {}
        names = [job["name"] for job in jobs]
        for at in range(0, len(names), _RECENT_AT_ONCE):
            found |= await self._backend.call("recent", jobs=names[at : at + _RECENT_AT_ONCE])
        return [{**job, **found.get(job["name"], {})} for job in jobs]

    async def job(self, call: Call) -> Answer:
        """Answer one job."""
        return Answer({"data": await self.reads.ask("job", job=call["job"])})

    async def run_job(self, call: Call) -> Answer:
        """Trigger a job; with ``wait`` answer its outcome."""
        return await self._trigger(call["job"], wait=call["wait"])

    async def brief(self, call: Call) -> Answer:
        """Trigger the job ``brief``."""
        return await self._trigger("brief", wait=call["wait"])

    async def report(self, call: Call) -> Answer:
        """Trigger the job ``report``."""
        return await self._trigger("report", wait=call["wait"])

    async def self_heal(self, call: Call) -> Answer:
        """Trigger the job ``selfheal``."""
        return await self._trigger("selfheal", wait=call["wait"])

    async def _trigger(self, job: str, *, wait: bool) -> Answer:
        run = (await self._change("trigger", job=job))["run"]
        if not wait:
            return Answer({"run": run})
        # A little less than the guard, so that the answer past it can name the run.
        row = await self._backend.call("wait", run=run, timeout_seconds=self._guard_seconds * 0.9)
        self.reads.forget()
        if row.get("state") in _ACTIVE:
            return Answer({"run": run, "status": f"Still {row['state']}", "data": row}, 202)
        return Answer({"run": run, "data": row})

    async def pause(self, call: Call) -> Answer:
        """Pause a job."""
        await self._change("pause", job=call["job"])
        return Answer({"status": f"Paused {call['job']}"})

    async def resume(self, call: Call) -> Answer:
        """Resume a job."""
        await self._change("resume", job=call["job"])
        return Answer({"status": f"Resumed {call['job']}"})

    async def next(self, call: Call) -> Answer:
        """List coming slots."""
        return Answer({"data": await self.reads.ask("next", job=call["job"], n=call["n"])})

    # ── runs ──────────────────────────────────────────────────────────────────────────────────

    async def runs(self, call: Call) -> web.Response:
        """List runs, newest first; ``next`` is the ``before_run`` of the following page."""
        since, until = call["since"], call["until"]
        wanted = {
            "job": call["job"],
            "n": call["limit"],
            "states": call["state"] or (),
            "since": None if since is None else rfc3339(since),
            "until": None if until is None else rfc3339(until),
            "before_run": call["before_run"],
        }

        async def make() -> Facts:
            page = await self._backend.call("history", **wanted)
            return {"data": page, "next": page[-1]["run"] if len(page) == call["limit"] else None}

        return await self._shared("history", tuple(wanted.values()), make)

    async def job_history(self, call: Call) -> web.Response:
        """List a job's runs, also those of one that is no longer configured."""
        return await self.runs(call)

    async def run(self, call: Call) -> Answer:
        """Answer one run with its attempts."""
        return Answer({"data": await self.reads.ask("run", run=call["run"])})

    async def output(self, call: Call) -> Answer:
        """Answer a piece of a run's output, from byte ``offset``."""
        piece = await self._backend.call(
            "output",
            run=call["run"],
            attempt=call["attempt"],
            offset=call["offset"],
            limit=call["limit"],
        )
        return Answer({"data": piece})

    async def cancel(self, call: Call) -> Answer:
        """Cancel a run."""
        await self._change("cancel", run=call["run"])
        return Answer({"status": f"Cancelling run {call['run']}"})

    async def timeline(self, call: Call) -> web.Response:
        """Answer the runs and coming slots between two instants (default: a day back, a day ahead)."""
        now = self._clock.now().replace(second=0, microsecond=0)
        two_days = timedelta(hours=48)
        end = call["to"] or (call["from"] or now - two_days / 2) + two_days
        start = call["from"] or max(end - two_days, EPOCH)
        if end < start:
            raise UsageError("from, to: the end lies before the start")
        # More than a picture can show is not asked for; the answer says what it covers.
        end = min(end, start + timedelta(days=32))
        first, last = rfc3339(start), rfc3339(end)

        async def make() -> Facts:
            found = await self._backend.call("timeline", start=first, end=last)
            return {"data": {"from": first, "to": last, **found}}

        return await self._shared("timeline", (first, last), make)

    # ── events ────────────────────────────────────────────────────────────────────────────────

    async def journal(self, call: Call) -> Answer:
        """Answer the last events of the journal that pass the filter."""
        job, kinds, text = call["job"], call["event"], (call["q"] or "").casefold()
        names = frozenset(part for part in (kinds or "").split(",") if part)

        def wanted(event: Facts) -> bool:
            if job and event.get("job") != job:
                return False
            if names and event.get("event") not in names:
                return False
            return not text or text in str(answers.encode(event), "utf-8").casefold()

        events, last = await self._backend.journal(call["n"], wanted)
        return Answer({"data": events, "last_id": last})

    async def events(self, call: Call) -> web.StreamResponse:
        """Stream events until the client leaves."""
        after = call["after"] or call.request.headers.get("Last-Event-ID")
        response = web.StreamResponse(headers={**answers.SECURITY_HEADERS, "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        await response.prepare(call.request)
        pump = asyncio.ensure_future(self._pump(response, after))
        leaving = asyncio.ensure_future(self.leaving.wait())
        try:
            await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            pump.cancel()
            ended, _ = await asyncio.gather(pump, leaving, return_exceptions=True)
        if isinstance(ended, Exception):
            # Too late for an answer, the stream has begun; the reader comes back by itself.
            logger.error("an event stream failed", exc_info=ended)
        return response

    async def _pump(self, response: web.StreamResponse, after: str | None) -> None:
        try:
            await response.write(b"retry: 1000\n\n")
            async for chunk in self._hub.listen(after):
                # A reader that takes nothing for so long is gone, or might as well be.
                async with asyncio.timeout(15.0):
                    await response.write(chunk or b": still here\n\n")
        except (ConnectionError, TimeoutError):
            logger.debug("an event stream's reader left")

    # ── health and metrics ────────────────────────────────────────────────────────────────────

    async def healthz(self, call: Call) -> web.Response:
        """Answer 200 only while the scheduler's loop beats."""
        status = await self.reads.status()
        health = str(status.get("health", "unknown"))
        if health in ("ok", "degraded"):
            return answers.good({"health": health})
        return answers.bad(503, reason(status), code=health)

    async def readyz(self, call: Call) -> web.Response:
        """Answer 200 only if the worker answers a question now."""
        status = await self.reads.status()
        if status.get("health") not in ("ok", "degraded"):
            return answers.bad(503, reason(status), code=str(status.get("health", "unknown")))
        if status.get("stopping"):
            return answers.bad(503, "the scheduler is stopping", code="stopping")
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self.reads.ask("next", job=None, n=1)
        except TimeoutError:
            return answers.bad(503, "the scheduler does not answer", code="unreachable")
        except EchoschedError as error:
            return answers.bad(503, str(error), code=error.code)
        return answers.good({"ready": True})

    async def _snapshot(self) -> Facts | None:
        try:
            snapshot: Facts = await self.reads.ask("metrics")
        except EchoschedError:
            return None  # no worker: what the status says is all there is to tell
        return snapshot

    async def metrics(self, call: Call) -> web.Response:
        """Answer Prometheus's text format."""
        from echosched import metrics

        status, snapshot = await self.reads.status(), await self._snapshot()
        try:
            text = metrics.render(snapshot, status)
        except ImportError:
            cure = "pip install 'echosched[web]', or apt install python3-prometheus-client"
            return answers.bad(503, f"prometheus_client is not installed here ({cure})", code="not_installed")
        response = web.Response(body=text.encode(), headers=answers.SECURITY_HEADERS)
        response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return response

    async def metrics_summary(self, call: Call) -> Answer:
        """Answer the figures that a person would want from the metrics."""
        status, snapshot = await self.reads.status(), await self._snapshot()
        return Answer({"data": summary(status, snapshot)})


def reason(status: Mapping[str, Any]) -> str:
    """Return in words why the scheduler is not well."""
    health = status.get("health")
    if health == "stalled":
        age = status.get("beat_age_seconds")
        return "the scheduler's loop does not move" + (f" (for {age:.0f} s)" if age is not None else "")
    if health == "stopped":
        ended = status.get("last_exit")
        return "the scheduler is not running" + (f" (it ended: {ended['how']})" if ended else "")
    return "; ".join(status.get("reasons") or [f"health is {health}"])


def summary(status: Mapping[str, Any], snapshot: Facts | None) -> Facts:
    """Return the few figures of the summary: condition, runs by outcome, success rate, load."""
    runs = dict(status.get("runs") or {})
    ended = sum(runs.get(name, 0) for name in ("succeeded", "failed", "timed_out", "abandoned"))
    return {
        "health": status.get("health"),
        "uptime_seconds": status.get("uptime_seconds"),
        "restarts": status.get("restarts"),
        "jobs": status.get("jobs"),
        "runs": runs,
        "success_ratio": runs.get("succeeded", 0) / ended if ended else None,
        "rss_bytes": status.get("rss_bytes"),
        "cpu_seconds": status.get("cpu_seconds"),
        "snapshot": snapshot,
    }

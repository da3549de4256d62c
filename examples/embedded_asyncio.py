"""A scheduler inside an asyncio program: here a small aiohttp server whose pages use it.

python examples/embedded_asyncio.py [PORT]

curl -X POST http://127.0.0.1:8080/reindex    # runs the job, answers when it has ended
curl http://127.0.0.1:8080/                   # what comes next
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from echosched import Context, Scheduler, State

scheduler = Scheduler()  # in memory: what this server does is over when it ends


@scheduler.job("H/5 * * * *", timeout="1m")
async def reindex(run: Context) -> None:
    """Every five minutes, at a minute of its own choosing."""
    for page in range(3):
        run.log(f"page {page}")
        await asyncio.sleep(0.01)


async def while_serving(_app: web.Application) -> AsyncIterator[None]:
    async with scheduler:  # begins with the server, and ends with it
        yield


async def coming(_request: web.Request) -> web.Response:
    return web.json_response({job: at.isoformat() for job, at in await scheduler.coming()})


async def run_now(_request: web.Request) -> web.Response:
    run = await scheduler.wait(await scheduler.trigger("reindex"))
    output = await scheduler.output(run.run)
    return web.Response(text=output, status=200 if run.state is State.SUCCEEDED else 500)


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(while_serving)
    app.router.add_get("/", coming)
    app.router.add_post("/reindex", run_now)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)

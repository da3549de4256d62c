"""Blocking work beside the loop, in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from echosched.notify import DeliveryError

_T = TypeVar("_T")


async def in_thread(function: Callable[[], _T], timeout_seconds: float) -> _T:
    """Return what *function* returns, called in a thread of its own; ``DeliveryError`` after *timeout_seconds*.

    Not the loop's default executor: a server that answers a byte an hour would hold its thread, and
    with it the end of the program. This thread is left to itself instead.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, problem = None, None
        try:
            result = function()
        except BaseException as err:  # noqa: BLE001 - whatever it is, the waiting side gets it
            problem = err
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=work, name="notify", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_seconds):
            return await future
    except TimeoutError:
        raise DeliveryError(f"no answer within {timeout_seconds:g} s") from None

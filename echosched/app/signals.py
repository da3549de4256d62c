"""The signals that end a program, while its scheduler runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handles the signals that end a program while the context is open, and gives them back afterwards."""

    def __init__(self, told: Callable[[], None]) -> None:
        """Call *told*, on the running loop, for each signal."""
        self._told = told
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        """Take the signals, in the main thread; elsewhere whoever owns that decides."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            before = signal.getsignal(number)
            try:
                loop.add_signal_handler(number, self._told)
            except (ValueError, RuntimeError):
                return
            self._before[number] = before

    def __exit__(self, *details: object) -> None:
        """Give them back."""
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)

"""What :class:`~echosched.store.resilient.ResilientStore` needs of the store inside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from echosched.protocols import Store
from echosched.store.ledger import Backlog


class DurableStore(Store, Protocol):
    """A store on a disk that may fill up or fail, with the calls that writing afterwards takes."""

    owner: str | None

    async def open(self, *, must_write: bool = True) -> None:
        """Open; without *must_write* leave an outside fault to the first write that meets it."""

    async def highest_run(self) -> int:
        """Return the highest run number that was ever given out."""

    async def known_slots(self, slots: Sequence[tuple[str, datetime]]) -> set[tuple[str, datetime]]:
        """Return those of *slots* that are accounted for."""

    async def restore(self, backlog: Backlog) -> None:
        """Write rows that memory kept; writing them again is harmless."""

    def give_up(self) -> None:
        """Answer all who wait for a write, because the disk does not; what was begun may still come to it."""

    async def set_aside(self) -> Path:
        """Close, and move the damaged file out of the way."""

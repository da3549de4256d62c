"""What happens to a live slot while earlier runs of the same job are active."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from echosched.model import Overlap


class Move(StrEnum):
    """The decision for one slot."""

    START = "start"
    QUEUE = "queue"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A move, with its reason where the slot does not run."""

    move: Move
    reason: str | None = None


_START = Verdict(Move.START)
_QUEUE = Verdict(Move.QUEUE)
_REPLACE = Verdict(Move.REPLACE)


def judge(overlap: Overlap, active: int, waiting: int, *, earlier: int | None = None) -> Verdict:
    """Decide about a slot of a job with *active* runs not ended yet, *waiting* of which have not begun.

    *earlier* is the run number of one of them, for the reason.
    """
    if active == 0 or overlap is Overlap.ALLOW:
        return _START
    if overlap is Overlap.QUEUE_ALL:
        return _QUEUE
    if overlap is Overlap.REPLACE:
        return _REPLACE
    run = "an earlier run" if earlier is None else f"run {earlier}"
    if overlap is Overlap.QUEUE:
        if waiting == 0:
            return _QUEUE
        return Verdict(Move.SKIP, f"{run} is active and another one is queued already (overlap queue)")
    return Verdict(Move.SKIP, f"{run} is still active (overlap skip)")

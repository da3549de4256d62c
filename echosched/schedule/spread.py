"""Stable choices made from a job's name: cron's ``H`` and ``jitter``.

Python's own ``hash`` differs from process to process; these must be the same on every host, in every
version, for ever, or a restart would move jobs.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zlib import crc32

_MASK = 0xFFFFFFFF


def stable_hash(name: str, purpose: str = "") -> int:
    """Return 32 well-mixed bits that depend on *name* and *purpose* only."""
    bits = crc32(f"{purpose}\0{name}".encode("utf-8", "surrogatepass"))
    # CRC is linear: names that differ in one digit would land side by side. This is MurmurHash3's finish.
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & _MASK
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & _MASK
    return bits ^ bits >> 16


def jitter_seconds(name: str, slot: datetime | None, jitter: timedelta) -> float:
    """Return by how many seconds the run of *slot* starts later, from 0 up to but not including *jitter*.

    The spread lies between jobs, not between the slots of one job: a job every ten minutes stays a job
    every ten minutes. *slot* is therefore not looked at; it is the caller's way to say which run it means.
    """
    length = jitter.total_seconds()
    return 0.0 if length <= 0 else stable_hash(name, "jitter") / (_MASK + 1) * length

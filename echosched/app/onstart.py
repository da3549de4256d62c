"""``@boot`` and ``@reboot``: jobs that a start fires, once for each life."""

from __future__ import annotations

from datetime import datetime

from echosched.clock import parse_rfc3339, rfc3339
from echosched.model import Trigger
from echosched.scheduler import Scheduler


async def fire_on_start(scheduler: Scheduler, *, life: str, boot: str) -> None:
    """Fire ``@boot`` once per *life* and ``@reboot`` once per *boot*, however often a scheduler starts in them.

    Both are any text that names one life of the daemon, or one boot of the machine, and no other.
    """
    for kind, name in (("boot", life), ("reboot", boot)):
        entries = [
            entry
            for entry in scheduler.roster.entries.values()
            if entry.waits and entry.schedule is not None and kind in entry.schedule.on_start
        ]
        slot = await _first_seen(scheduler, f"life:{kind}", name)
        for entry in entries:
            if entry.cursor_at <= slot or kind == "boot":
                await scheduler.trigger(entry.job.name, Trigger.BOOT, slot=slot)


async def _first_seen(scheduler: Scheduler, key: str, life: str) -> datetime:
    """Return when *life* was first seen here; that instant is the slot, so a second worker claims in vain."""
    note = await scheduler.store.get_note(key)
    if note is not None:
        known, _, text = note.partition("|")
        if known == life:
            return parse_rfc3339(text)
    now = scheduler.clock.now()
    await scheduler.store.set_note(key, f"{life}|{rfc3339(now)}")
    return now

"""``selfheal``: looks for what silently goes wrong, mends what can be mended, tells the rest.

Database check, orphaned output files, parked jobs, disk space, unsent messages, and every job with
``heal = true`` whose last run did not succeed is run again. Each step stands alone: one that fails
is a problem in the answer and stops no other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echosched.builtin import Context
from echosched.builtin.files import outputs, remove
from echosched.errors import EchoschedError, ExecutionError
from echosched.events import SelfHealStartup
from echosched.model import FAILURES, State, Trigger

_YOUNG_SECONDS = 3600  # a file's row may be waiting in memory while the store is down
_LITTLE_SHARE = 0.05
_LITTLE_BYTES = 200 * 1024 * 1024


async def run(context: Context) -> Mapping[str, Any]:
    """Check, mend, run failed ``heal`` jobs again; answer with ``retried_count``, ``problems`` and counts.

    Fails (after having done everything) only when the database is damaged: that no one can mend by waiting.
    """
    problems: list[str] = []
    damaged = await _database(context, problems)
    orphans, orphan_bytes = await _orphans(context, problems)
    unparked = await _parked(context, problems)
    problems.extend(await asyncio.to_thread(low_space, [context.runs_dir, context.reports_dir]))
    resent = await _messages(context, problems)
    retried = await _heal(context, problems)
    if context.started_by is Trigger.BOOT:
        context.emit(SelfHealStartup(ts=context.clock.now(), retried_count=len(retried)))
    context.log(_account(problems, orphans, orphan_bytes, unparked, resent, retried))
    if damaged:
        raise ExecutionError(f"selfheal: the database is damaged: {damaged} (stop, restore a copy, start)")
    return {
        "retried_count": len(retried),
        "retried": retried,
        "unparked": unparked,
        "orphans_removed": orphans,
        "orphan_bytes": orphan_bytes,
        "messages_sent": resent,
        "problems": problems,
    }


async def _database(context: Context, problems: list[str]) -> str | None:
    try:
        found = await context.store.check()
    except EchoschedError as err:
        problems.append(f"database: cannot be checked: {err}")
        return None
    problems.extend(f"database: {text}" for text in found)
    return found[0] if found else None


async def _orphans(context: Context, problems: list[str]) -> tuple[int, int]:
    """Remove output files whose run the store does not know; files of the last hour are left alone."""
    oldest = context.clock.now().timestamp() - _YOUNG_SECONDS
    files = await asyncio.to_thread(lambda: list(outputs(context.runs_dir)))
    known: dict[int, bool] = {}
    lost: list[Path] = []
    try:
        for file in files:
            if file.modified >= oldest or file.run == context.run:
                continue
            if file.run not in known:
                known[file.run] = await context.store.get_run(file.run) is not None
            if not known[file.run]:
                lost.append(file.path)
    except EchoschedError as err:
        problems.append(f"output files: cannot be compared with the database: {err}")
        return 0, 0
    return await asyncio.to_thread(remove, lost)


async def _parked(context: Context, problems: list[str]) -> list[str]:
    """Give every parked job another try."""
    try:
        records = await context.store.load_jobs()
    except EchoschedError as err:
        problems.append(f"parked jobs: {err}")
        return []
    back = []
    for name, record in records.items():
        if record.parked is None or name not in context.jobs:
            continue
        try:
            if await context.unpark(name):
                back.append(name)
                continue
        except EchoschedError as err:
            problems.append(f"job {name}: still parked: {err}")
            continue
        problems.append(f"job {name}: parked: {record.parked}")
    return back


def low_space(directories: list[Path]) -> list[str]:
    """Return a line for each file system of *directories* that is nearly full (space or inodes)."""
    problems, seen = [], set()
    for directory in directories:
        try:
            device = directory.stat().st_dev
            space = os.statvfs(directory)
        except OSError:
            continue
        if device in seen:
            continue
        seen.add(device)
        free = space.f_bavail * space.f_frsize
        share = space.f_bavail / space.f_blocks if space.f_blocks else 1.0
        # A small volume that is half empty is as it should be; a large one in its last GiB is not.
        if (free < _LITTLE_BYTES and share < 0.5) or (free < _LITTLE_BYTES * 10 and share < _LITTLE_SHARE):
            problems.append(f"{directory}: only {free // 1024**2} MiB free ({share:.1%})")
        if space.f_files and space.f_favail / space.f_files < 0.02:
            problems.append(f"{directory}: only {space.f_favail} inodes free")
    return problems


async def _messages(context: Context, problems: list[str]) -> int:
    try:
        return await context.resend()
    except EchoschedError as err:
        problems.append(f"messages: {err}")
        return 0


async def _heal(context: Context, problems: list[str]) -> list[str]:
    """Run each unwell ``heal`` job again; one that is queued or running already is left to itself."""
    retried = []
    wanted = [name for name, job in context.jobs.items() if job.policy.heal and job.enabled]
    try:
        records = await context.store.load_jobs() if wanted else {}
    except EchoschedError as err:
        problems.append(f"heal: {err}")
        return []
    for name in wanted:
        record = records.get(name)
        if record is not None and (record.paused or record.parked):
            continue
        try:
            latest = await _last_run(context, name)
            if latest not in FAILURES:
                continue
            number = await context.trigger(name, Trigger.HEAL)
        except EchoschedError as err:
            problems.append(f"job {name}: cannot be run again: {err}")
            continue
        retried.append(name)
        context.log(f"{name}: last run {latest}, runs again as #{number}\n")
    return retried


async def _last_run(context: Context, job: str) -> State | None:
    """Return the state of the newest run of *job* that was run at all (skipped and missed slots were not)."""
    before: int | None = None
    for _ in range(20):
        page = await context.store.history(job=job, before_run=before, limit=50)
        for entry in page:
            if entry.run != context.run and entry.state not in (State.SKIPPED, State.MISSED, State.CANCELLED):
                return entry.state
        if len(page) < 50:
            return None
        before = page[-1].run
    return None


def _account(
    problems: list[str], orphans: int, orphan_bytes: int, unparked: list[str], resent: int, retried: list[str]
) -> str:
    lines = [
        f"orphaned output files removed: {orphans} ({orphan_bytes} bytes)",
        f"parked jobs back in service: {', '.join(unparked) or 'none'}",
        f"messages sent again: {resent}",
        f"retried_count: {len(retried)} ({', '.join(retried) or 'no job had to be run again'})",
        *(f"problem: {text}" for text in problems),
    ]
    return "".join(f"{text}\n" for text in lines)

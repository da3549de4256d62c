"""``retention``: removes what ``[retention]`` no longer wants, so gently that no slot is late for it.

Rows go in small batches, each a transaction of its own, and after each the job rests at least as
long as the batch took; claims of due slots pass in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from echosched.builtin import Context
from echosched.builtin.files import remove
from echosched.errors import ExecutionError, StoreError
from echosched.events import RetentionDone, RetentionStart

_BATCH = 200
_REPORT = re.compile(r"(?:brief|report)-\d[\dTZ-]*\.(?:md|html)|\..*\.part")


async def run(context: Context) -> Mapping[str, Any]:
    """Remove old runs, slot rows, outputs, reports and left-over journals; answer with counts and bytes."""
    now = context.clock.now()
    context.emit(RetentionStart(ts=now))
    total = {"runs": 0, "slots": 0, "outputs": 0, "reports": 0, "journals": 0, "bytes": 0}
    try:
        await _prune_store(context, now, total)
    except StoreError as err:
        raise ExecutionError(f"retention: {err}") from err
    await asyncio.to_thread(remove_empty, context.runs_dir)
    old_reports = await asyncio.to_thread(
        _reports_before, context.reports_dir, now - context.retention.reports
    )
    total["reports"], freed = await asyncio.to_thread(remove, old_reports)
    total["bytes"] += freed
    total["journals"], freed = await asyncio.to_thread(
        remove, _journals_beyond(context.journal, context.log_keep)
    )
    total["bytes"] += freed
    events = {name: total[name] for name in ("runs", "slots", "outputs", "reports", "bytes")}
    context.emit(RetentionDone(ts=context.clock.now(), **events))
    context.log("".join(f"{name}: {count}\n" for name, count in total.items()))
    return total


def slots_before(now: datetime, windows: list[timedelta]) -> datetime:
    """Return the age limit of slot rows: twice the longest catch-up window and three days more.

    A slot row is what keeps a slot from running twice; it may go only when nothing could ever
    catch that slot up again, also after the clock was set.
    """
    return now - 2 * max(windows, default=timedelta(0)) - timedelta(days=3)


async def _prune_store(context: Context, now: datetime, total: dict[str, int]) -> None:
    keep = context.retention
    slots = slots_before(now, [job.policy.catchup_window for job in context.jobs.values()])
    while True:
        began = context.clock.monotonic()
        pruned = await context.store.prune(
            runs_before=now - keep.runs,
            keep=keep.keep,
            outputs_before=now - keep.output,
            slots_before=slots,
            batch=_BATCH,
        )
        if not (pruned.runs or pruned.slots or pruned.outputs):
            return
        total["runs"] += pruned.runs
        total["slots"] += pruned.slots
        paths = [context.output_path(run, attempt) for run, attempt in pruned.outputs]
        removed, freed = await asyncio.to_thread(remove, paths)
        total["outputs"] += removed
        total["bytes"] += freed
        await asyncio.sleep(min(0.25, max(0.005, context.clock.monotonic() - began)))


def remove_empty(runs: Path) -> int:
    """Remove empty directories of outputs, the three newest left alone: a run may be about to write there."""
    try:
        numbered = sorted(
            (path for path in runs.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
        )
    except OSError:
        return 0
    removed = 0
    for path in numbered[:-3]:
        with contextlib.suppress(OSError):  # not empty: mostly
            path.rmdir()
            removed += 1
    return removed


def _reports_before(directory: Path, limit: datetime) -> list[Path]:
    """Return dated briefs and reports (and what a crash left half-written) older than *limit*."""
    try:
        files = [path for path in directory.iterdir() if _REPORT.fullmatch(path.name)]
        return [path for path in files if path.lstat().st_mtime < limit.timestamp()]
    except OSError:
        return []


def _journals_beyond(journal: Path | None, keep: int) -> list[Path]:
    """Return rotated journals with a number above *keep*: left by an earlier, larger ``log_keep``."""
    if journal is None:
        return []
    numbered = re.compile(re.escape(journal.name) + r"\.(\d+)(?:\.gz)?")
    try:
        names = [(path, numbered.fullmatch(path.name)) for path in journal.parent.iterdir()]
    except OSError:
        return []
    return [path for path, match in names if match and int(match[1]) > keep]

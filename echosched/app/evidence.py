"""What is left of runs that an earlier life began: the boot it lived in, marked processes, output files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from echosched.app.outputs import Outputs
from echosched.daemon import proc
from echosched.executor import ActionExecutor
from echosched.model import Attempt, ProcessIdentity
from echosched.protocols import Store
from echosched.scheduler.recovery import Evidence


async def gather(
    store: Store,
    executor: ActionExecutor,
    outputs: Outputs,
    held: Mapping[str, ProcessIdentity] | None = None,
) -> Evidence:
    """Return what a recovery may rely on; remembers this boot in *store*, so that the next life can tell it apart.

    *held* are the processes, by tag, whose exit codes a supervisor keeps. Processes are searched for only
    if the store knows of runs that could have some.
    """
    here = f"{proc.boot_id()}:{proc.pid_namespace()}"
    before = await store.get_note("boot")
    if before != here:
        await store.set_note("boot", here)
    marked = await asyncio.to_thread(executor.find_all) if await store.active() else {}

    def find(attempt: Attempt) -> ProcessIdentity | None:
        family = marked.get(attempt.tag)
        return family[0] if family else None

    return Evidence(
        same_boot=before is None or before == here,
        held=dict(held or {}),
        find=find,
        began=outputs.began,
        adopt=lambda attempt, process, started_at: executor.adopt(attempt, process),
        output_path=outputs.path,
    )

"""What is left of runs that an earlier life began: the boot it lived in, marked processes, output files, answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from echosched.app.outputs import Outputs
from echosched.daemon import proc
from echosched.executor import ActionExecutor
from echosched.model import Attempt, BuiltinAction, ProcessIdentity
from echosched.protocols import Store
from echosched.scheduler.recovery import Evidence

MOST_AGAIN = 3
"""How often in a row a built-in job that ended with its worker begins anew: it may be what ended the worker."""

_YOUNG_SECONDS = 10.0


async def gather(
    store: Store,
    executor: ActionExecutor,
    outputs: Outputs,
    held: Mapping[str, ProcessIdentity] | None = None,
) -> Evidence:
    """Return what a recovery may rely on; remembers this boot in *store*, so that the next life can tell it apart.

    *held* are the processes, by tag, whose exit codes a supervisor keeps. Others are searched for only
    if somebody asks.
    """
    here = f"{proc.boot_id()}:{proc.pid_namespace()}"
    before = await store.get_note("boot")
    if before != here:
        await store.set_note("boot", here)
    marked: dict[str, list[ProcessIdentity]] | None = None

    def find(attempt: Attempt) -> ProcessIdentity | None:
        nonlocal marked
        # Looked for when first asked (mostly the supervisor knows all), and again for an attempt so young
        # that it may have begun since: a call that the last worker ordered with its last breath.
        young = outputs.age(attempt.run, attempt.number) < _YOUNG_SECONDS
        if marked is None or (young and attempt.tag not in marked):
            marked = executor.find_all()
        family = marked.get(attempt.tag)
        return family[0] if family else None

    return Evidence(
        same_boot=before is None or before == here,
        held=dict(held or {}),
        find=find,
        began=outputs.began,
        adopt=executor.adopt,
        output_path=outputs.path,
        past=executor.past,
        traced=executor.is_traced,
        again=_Again(store, outputs),
    )


class _Again:
    """Counts how often an attempt began anew, in a note; only those of this recovery are remembered."""

    def __init__(self, store: Store, outputs: Outputs) -> None:
        self._store = store
        self._outputs = outputs
        self._before: dict[str, int] | None = None
        self._now: dict[str, int] = {}

    async def __call__(self, attempt: Attempt) -> bool:
        """Make room for *attempt* to begin anew; ``False`` for what is no built-in job, or did so too often."""
        if not isinstance(attempt.job.action, BuiltinAction):
            return False
        if self._before is None:
            self._before = json.loads(await self._store.get_note("again") or "{}")
        count = self._before.get(attempt.tag, 0) + 1
        if count > MOST_AGAIN:
            return False
        self._now[attempt.tag] = count
        await self._store.set_note("again", json.dumps(self._now))
        await asyncio.to_thread(self._outputs.remove, attempt.run, attempt.number)
        return True

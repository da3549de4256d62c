"""History by state, as people know the states.

The right to start is written ahead of the start, so a run that waits for its place may be ``running`` in the
store while everybody is told ``queued``. Asked for one of the two alone, the store is asked for both, and
what people would read decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from echosched.model import Run, State
from echosched.protocols import Facts

_OPEN = {State.QUEUED, State.RUNNING}
_PAGE = 100


async def rows_matching(
    query: dict[str, Any],
    fetch: Callable[..., Awaitable[list[Run]]],
    rows_of: Callable[[Sequence[Run]], Awaitable[list[Facts]]],
) -> list[Facts]:
    """Return the rows that *query* (see ``history_query``) asks for.

    *fetch* is :meth:`echosched.protocols.Store.history`; *rows_of* makes of runs what people read.
    """
    wanted = set(query["states"])
    if len(wanted & _OPEN) != 1:
        return await rows_of(await fetch(**query))
    limit = query["limit"]
    page = {**query, "states": [*wanted | _OPEN], "limit": max(limit, _PAGE)}
    found: list[Facts] = []
    while len(found) < limit:
        runs = await fetch(**page)
        found += [row for row in await rows_of(runs) if row["state"] in wanted]
        if len(runs) < page["limit"]:
            break
        page["before_run"] = runs[-1].run
    return found[:limit]

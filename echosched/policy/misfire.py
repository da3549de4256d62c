"""What is done about slots whose time has come: run, coalesce or record as missed.

A slot that is late by no more than :data:`TOLERANCE` is *live*: the scheduler was merely busy, stepped
over, or its worker restarted. A later one, and one that came while no scheduler ran at all, is a *misfire* and falls
under the job's catch-up policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from echosched.clock import rfc3339
from echosched.model import Catchup, Policy, Trigger

TOLERANCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one due slot: it runs (as *trigger*), or *missed* says why not."""

    slot: datetime
    trigger: Trigger = Trigger.SCHEDULE
    missed: str | None = None


def judge(
    slots: Sequence[datetime],
    now: datetime,
    policy: Policy,
    *,
    more: bool = False,
    absent_until: datetime | None = None,
) -> list[Verdict]:
    """Return a verdict for each of one job's due *slots* (aware, ascending), in their order.

    Of several due slots ``last`` runs the newest, ``all`` every one within ``catchup_window``, ``none``
    the newest if it is live. All others are missed, each with its reason. With ``all`` several at once are a
    backlog however fresh they are: nobody could run the first when the second came due, and ``overlap``,
    which judges live slots, would drop all but one. *more*: newer due slots follow in a later call.
    *absent_until*: nobody ran until then.
    """
    if len(slots) == 1 and not more and is_live(slots[0], now, absent_until):  # nearly always
        return [Verdict(slots[0])]
    newest = None if more else slots[-1]
    into = "a newer slot's run" if newest is None else f"the run for {rfc3339(newest)}"
    verdicts = []
    for slot in slots:
        lag = now - slot
        live = is_live(slot, now, absent_until) and policy.catchup is not Catchup.ALL
        trigger = Trigger.SCHEDULE if live else Trigger.CATCHUP
        if not live and policy.catchup is Catchup.NONE:
            verdicts.append(Verdict(slot, trigger, f"{_ago(lag)} late and catchup is none"))
        elif not live and lag > policy.catchup_window:
            verdicts.append(Verdict(slot, trigger, f"{_ago(lag)} late, outside catchup_window"))
        elif slot is not newest and policy.catchup is not Catchup.ALL:
            verdicts.append(Verdict(slot, trigger, f"coalesced into {into}"))
        else:
            verdicts.append(Verdict(slot, trigger))
    return verdicts


def is_live(slot: datetime, now: datetime, absent_until: datetime | None) -> bool:
    """Tell whether *slot* is due, or was a moment ago, with somebody there who could run it."""
    return now - slot <= TOLERANCE and (absent_until is None or slot > absent_until)


def _ago(lag: timedelta) -> str:
    seconds = int(lag.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"

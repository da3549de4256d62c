"""All ordeals in one: kills, faults of the disk and steps of the clock, in an order that chance decides."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.system.conftest import eventually

from .driver import Ordeal
from .faults import full
from .oracle import Account
from .shim import ClockShim
from .syscalls import SUPERVISOR_POINTS, WORKER_POINTS, Injection, alive, rule

SPELLS = {
    "EIO from fdatasync": "fdatasync:error=EIO:when=1+",
    "EIO from pwrite64": "pwrite64:error=EIO:when=1+",
    "ENOSPC from pwrite64": "pwrite64:error=ENOSPC:when=1+",
    "fdatasync hangs 2 s": "fdatasync:delay_enter=2000000:when=1+",
}


class Campaign:
    """Does one thing after another to the daemon of *ordeal*, and counts them.

    The database lies on *disk*, a small filesystem that can be filled; *shim* moves the daemon's clock.
    """

    def __init__(self, ordeal: Ordeal, disk: Path, shim: ClockShim | None) -> None:
        self.ordeal = ordeal
        self.disk = disk
        self.shim = shim
        self.chance = ordeal.chance
        self.did: Counter[str] = Counter()
        self._deeds: dict[Callable[[], None], int] = {
            self.kill_worker: 8,
            self.kill_supervisor: 3,
            self.kill_worker_at_a_call: 8,
            self.kill_supervisor_at_a_call: 4,
            self.spell: 4,
            self.full_spell: 1,
            self.kill_in_a_spell: 1,
            self.step_the_clock: 2 if shim else 0,
        }

    def run(self, seconds: float) -> None:
        """Do what chance decides for *seconds*."""
        end = time.monotonic() + seconds
        deeds, weights = list(self._deeds), list(self._deeds.values())
        while time.monotonic() < end:
            self.chance.choices(deeds, weights)[0]()
            time.sleep(self.chance.choice((self.chance.uniform(0, 0.3), self.chance.uniform(0.5, 3.0))))

    def run_each(self) -> None:
        """Do each kind of killing and stepping once, in an order that chance decides."""
        deeds = [deed for deed, weight in self._deeds.items() if weight]
        deeds = [deed for deed in deeds if deed not in (self.spell, self.full_spell)]
        deeds.append(self.kill_worker_at_a_call)
        self.chance.shuffle(deeds)
        for deed in deeds:
            deed()
            time.sleep(self.chance.uniform(0.1, 1.5))

    # ── deeds ─────────────────────────────────────────────────────────────────────────────────

    def kill_worker(self) -> None:
        self.ordeal.kill_worker()

    def kill_supervisor(self) -> None:
        self.ordeal.kill_supervisor()

    def kill_worker_at_a_call(self) -> None:
        point = self.chance.choice(WORKER_POINTS)
        injection = Injection(eventually(self.ordeal.find_worker), rule(point))
        if injection.wait_for_death(3.0):
            self.ordeal.worker_kills += 1
            self.did[f"kill: worker on entering {point}"] += 1
        injection.close()

    def kill_supervisor_at_a_call(self) -> None:
        eventually(self.ordeal.find_worker)
        supervisor = self.ordeal.pid
        point = self.chance.choice(SUPERVISOR_POINTS)
        injection = Injection(supervisor, rule(point))
        self.ordeal.kill_worker()
        if injection.wait_for_death(3.0):
            self.ordeal.supervisor_kills += 1
            self.did[f"kill: supervisor on entering {point}"] += 1
        injection.close()
        if not alive(supervisor):
            self.ordeal.ok("start")

    def spell(self) -> None:
        """Let the disk fail for a while under a worker that lives on."""
        name = self.chance.choice(list(SPELLS))
        injection = Injection(self._steady_worker(), SPELLS[name])
        time.sleep(self.chance.uniform(1.0, 4.0))
        injection.close()
        self.did[f"fault: {name}"] += 1
        self._until_well()

    def full_spell(self) -> None:
        self._steady_worker()
        with full(self.ordeal, self.disk):
            time.sleep(self.chance.uniform(1.0, 4.0))
        self.did["fault: full disk"] += 1
        self._until_well()

    def kill_in_a_spell(self) -> None:
        """Kill the worker while nothing can be written: what it knew is lost with it."""
        injection = Injection(self._steady_worker(), SPELLS["EIO from fdatasync"])
        eventually(lambda: self.ordeal.status["degraded_since"])
        time.sleep(self.chance.uniform(0.0, 1.0))
        self.ordeal.kill_worker()
        injection.close()
        self.did["fault: worker killed while fdatasync fails"] += 1
        self._until_well()

    def step_the_clock(self) -> None:
        assert self.shim is not None
        self._until_well()
        seconds = self.chance.uniform(-12.0, 12.0)
        self.shim.step(timedelta(seconds=seconds), asleep=seconds > 0 and self.chance.random() < 0.5)
        self.did["clock: back" if seconds < 0 else "clock: forward, or asleep"] += 1

    def _steady_worker(self) -> int:
        """Return the pid of a worker that has begun: its threads are there to be attached to."""
        self._until_well()
        return eventually(self.ordeal.find_worker)

    def _until_well(self) -> None:
        eventually(lambda: self.ordeal.status["health"] == "ok", 90)

    # ── the table ─────────────────────────────────────────────────────────────────────────────

    def table(self, seconds: float, account: Account) -> str:
        """Return all figures."""

        def count(kind: str) -> int:
            return sum(number for deed, number in self.did.items() if deed.startswith(kind))

        points = sum(deed.startswith("kill: ") for deed in self.did)
        ended = account.succeeded + account.abandoned
        rows = [
            ("minutes", f"{seconds / 60:.1f}"),
            ("kills of workers", str(self.ordeal.worker_kills)),
            ("kills of supervisors", str(self.ordeal.supervisor_kills)),
            ("  of these on entering a chosen call", f"{count('kill: ')} at {points} calls"),
            ("spells of a failing disk", str(count("fault: "))),
            *((f"  {deed[7:]}", str(n)) for deed, n in sorted(self.did.items()) if deed.startswith("fault")),
            ("steps of the clock", str(count("clock: "))),
            ("slots due", str(account.due)),
            ("lost", str(len(account.lost) + len(account.silent))),
            ("doubled", str(len(account.doubled) + len(account.two_rows))),
            ("skipped or missed, with a reason", str(account.not_run)),
            ("cancelled, with a reason", str(account.cancelled)),
            ("abandoned", str(account.abandoned)),
            ("succeeded", f"{account.succeeded} ({account.succeeded / max(1, ended):.1%} of those with abandoned)"),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {figure}" for name, figure in rows)

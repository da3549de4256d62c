"""What others lose: one job a second, the scheduler killed with SIGKILL again and again and started anew.

    python bench/reliability_peers.py [--seconds 60] [--kill-every 6] [--down 1] [echosched apscheduler ...]

The job appends the second it ran in. For echosched and APScheduler (SQLite job store, ``misfire_grace_time`` and
``coalesce`` as they come, then as generous as they can be set) a slot is due each second; Debian's cron knows
minutes only, so it and ``echosched-minutes`` get one job a minute, fewer kills and longer absences
(``--seconds 600 --kill-every 40 --down 20``). A slot counts as lost when nobody ran it and no record
says why. Not part of CI: it takes minutes and says nothing about us that tests/torture does not say better.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]

APSCHEDULER = """
import sys
from apscheduler.schedulers.blocking import BlockingScheduler
from datetime import UTC
store, marks, generous = sys.argv[1], sys.argv[2], sys.argv[3] == "generous"
def job(marks):
    import os, subprocess
    subprocess.run(["/bin/sh", "-c", 'date +%s >> "$0"', marks])
options = dict(misfire_grace_time=3600, coalesce=False, max_instances=100) if generous else {}
scheduler = BlockingScheduler(timezone=UTC)
scheduler.add_jobstore("sqlalchemy", url="sqlite:///" + store)
def prepare():
    scheduler.add_job(job, "cron", second="*", args=[marks], id="tock", replace_existing=False, **options)
from apscheduler.jobstores.base import ConflictingIdError
from apscheduler.events import EVENT_SCHEDULER_STARTED
def started(event):
    try:
        prepare()
    except ConflictingIdError:
        pass
scheduler.add_listener(started, EVENT_SCHEDULER_STARTED)
scheduler.start()
"""


class Peer:
    """Something that can be started and killed."""

    period = 1

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.marks = home / "marks"

    def start(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def explained(self) -> int:
        """Return how many slots a record explains that were not run."""
        return 0


class Echosched(Peer):
    schedule = "* * * * * *"

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        (home / "echosched.toml").write_text(
            '[daemon]\ntick = "0"\nmax_restarts = 100000\nrestart_window = "1s"\n[job.tock]\n'
            f'schedule = "{self.schedule}"\ncatchup = "all"\noverlap = "allow"\n'
            f'command = "date -d $ECHOSCHED_SLOT +%s >> {self.marks}"\n'
        )
        self.cli = [sys.executable, "-P", str(ROOT / "echosched" / "cli" / "__main__.py")]

    def start(self) -> None:
        subprocess.run([*self.cli, "start", "--home", self.home], check=True, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        os.kill(int((self.home / "echosched.pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        subprocess.run([*self.cli, "stop", "--home", self.home], check=True, stdout=subprocess.DEVNULL)

    def explained(self) -> int:
        with sqlite3.connect(self.home / "echosched.db") as connection:
            query = "SELECT count(*) FROM runs WHERE state IN ('missed', 'skipped', 'abandoned')"
            [[count]] = connection.execute(query)
        return int(count)


class EchoschedMinutes(Echosched):
    period = 60
    schedule = "* * * * *"


class Child(Peer):
    """A peer that stays in the foreground."""

    command: list[str]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()


class APScheduler(Child):
    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        program = home / "program.py"
        program.write_text(APSCHEDULER)
        generous = "generous" if name.endswith("generous") else "default"
        self.command = [sys.executable, str(program), str(home / "jobs.db"), str(self.marks), generous]


class Cron(Child):
    """Debian's cron, in namespaces of its own so that no crontab of this machine is touched."""

    period = 60

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        crontabs, system = home / "crontabs", home / "etc"
        crontabs.mkdir()
        system.mkdir()
        (crontabs / "root").write_text(f"* * * * * date +\\%s >> {self.marks}\n")
        (crontabs / "root").chmod(0o600)
        script = (
            f"mount --bind {crontabs} /var/spool/cron/crontabs && mount --bind {system} /etc/cron.d && "
            "mount -t tmpfs none /run && exec cron -f"
        )
        self.command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


PEERS = {
    "echosched": Echosched,
    "echosched-minutes": EchoschedMinutes,
    "apscheduler": APScheduler,
    "apscheduler-generous": APScheduler,
    "cron": Cron,
}


def ordeal(name: str, seconds: float, kill_every: float, down: float, seed: int) -> str:
    """Run one peer through it, dead for *down* seconds each time; return its line of the table."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        peer = PEERS[name](name, Path(directory))
        peer.start()
        deadline = time.monotonic() + 90
        while not peer.marks.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not peer.marks.exists():
            peer.kill()
            raise SystemExit(f"{name} runs nothing (pip install -e '.[bench]'; apt-get install cron)")
        begun, kills = int(time.time()) + 1, 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.5, 1.5) * kill_every)
            peer.kill()
            kills += 1
            time.sleep(down)
            peer.start()
        until = int(time.time())
        time.sleep(max(8, peer.period / 6))
        peer.stop()
        marks = Counter(int(line) // peer.period for line in peer.marks.read_text().split())
        due = [at for at in range(begun // peer.period + 1, until // peer.period)]
        lost = sum(marks[at] == 0 for at in due)
        doubled = sum(marks[at] > 1 for at in due)
        return (
            f"| {name} | {kills} | {len(due)} | {lost} | {doubled} | {peer.explained()} | "
            f"{datetime.now(UTC):%Y-%m-%d} |"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("peers", nargs="*", default=["echosched", "apscheduler", "apscheduler-generous"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kill-every", type=float, default=6)
    parser.add_argument("--down", type=float, default=1.0, help="seconds between a death and the next start")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| scheduler | kills | due | not run for its slot | twice for it | explained by a record | date |")
    print("|---|---|---|---|---|---|---|")
    for name in options.peers:
        print(ordeal(name, options.seconds, options.kill_every, options.down, options.seed), flush=True)


if __name__ == "__main__":
    main()

"""Many hosts: what peers lose and double, what one run costs, how late it starts, and where it ends.

    python bench/cluster.py peers [--jobs 20] [--seconds 40] [PEER …]
    python bench/cluster.py rates [--instances 1,2,4] [--rates 50,100,200] [--seconds 15] [--spread] [--no-output]
    python bench/cluster.py store [--batches 1,10,100]
    python bench/cluster.py idle [--instances 1,2,4,8] [--seconds 20]

``peers``: the same jobs, each due once a second, on two hosts; after a quarter of the time one host is stopped
(SIGSTOP) for a quarter and continued; after three quarters the other is killed (SIGKILL) and started anew a second
later. ``rates``: so many runs a second, for each number of instances: from slot to start, and the CPU time that
each part spends for one run. ``store``: what PostgreSQL itself takes for a slot and its run, in batches. ``idle``:
what instances with nothing to do cost it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cluster_peers import MARK_C, PEERS, Echosched, Peer, missing, postgres
from common import RESULTS, build, workshop

SETTLE_SECONDS = 8.0
HZ = os.sysconf("SC_CLK_TCK")


# ── peers ─────────────────────────────────────────────────────────────────────────────────────


def marks(peer: Peer) -> list[tuple[str, float, float]]:
    """Return (job, slot as a Unix second, instant of the run); without slots, the second it ran in."""
    found = []
    for line in peer.marks.read_text().splitlines() if peer.marks.exists() else ():
        job, slot, at = line.split()
        if slot == "-":
            second = float(int(float(at)))
        elif "T" in slot:
            second = datetime.fromisoformat(slot).timestamp()
        else:
            second = float(slot)
        found.append((job, second, float(at)))
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the value below which *share* of all lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def wait_for_marks(peer: Peer, seconds: float = 60.0) -> None:
    """Wait until every job has been there once."""
    deadline = time.monotonic() + seconds
    while len({job for job, _, _ in marks(peer)}) < peer.jobs:
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-1500:] for path in sorted(peer.directory.glob("log*")))
            raise RuntimeError(f"{peer.name}: not all jobs began within {seconds:g} s\n{logs}")
        time.sleep(0.2)


def ordeal(peer: Peer, seconds: float) -> dict[str, Any]:
    """Run one peer through pause and kill; return its row."""
    peer.prepare()
    for host in range(peer.hosts):
        peer.start(host)
    wait_for_marks(peer)
    begin = int(time.time()) + 2
    time.sleep(begin - time.time() + seconds / 4)
    peer.signal(1, signal.SIGSTOP)
    time.sleep(seconds / 4)
    peer.signal(1, signal.SIGCONT)
    time.sleep(seconds / 4)
    peer.kill(0)
    time.sleep(1.0)
    peer.start(0)
    time.sleep(max(0.0, begin + seconds - time.time()))
    end = int(time.time())
    time.sleep(SETTLE_SECONDS)
    wanted = {(f"j{n}", second) for n in range(peer.jobs) for second in range(begin, end)}
    seen = [(job, second, at) for job, second, at in marks(peer) if (job, second) in wanted]
    count = Counter((job, second) for job, second, _ in seen)
    lags = [at - second for _, second, at in seen] if peer.has_slots else []
    return {
        "peer": peer.name,
        "due": len(wanted),
        "ran": len(seen),
        "never": len(wanted) - len(count),
        "twice": sum(n > 1 for n in count.values()),
        "lag_p50_ms": percentile(lags, 0.5) * 1000,
        "lag_p99_ms": percentile(lags, 0.99) * 1000,
        "has_slots": peer.has_slots,
    }


def peers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run each peer and print the table."""
    rows = []
    print("| scheduler | due | runs | never run | run twice | lag p50 | p99 |\n|---|---|---|---|---|---|---|")
    for name in options.peers or PEERS:
        lacking = missing(name)
        if lacking is not None:
            print(f"| {name} | not measured: this machine lacks {lacking} | | | | | |")
            continue
        with workshop() as directory:
            mark = build(directory, "mark", MARK_C)
            peer = PEERS[name](directory, mark, options.jobs, options.seconds)
            try:
                row = ordeal(peer, options.seconds)
            finally:
                peer.close()
        lags = f"{row['lag_p50_ms']:.0f} ms | {row['lag_p99_ms']:.0f} ms" if row["has_slots"] else "– | –"
        print(
            f"| {row['peer']} | {row['due']} | {row['ran']} | {row['never']} | {row['twice']} | {lags} |",
            flush=True,
        )
        rows.append(row)
    return rows


# ── rates ─────────────────────────────────────────────────────────────────────────────────────


def cpu(pids: list[int], *, children: bool = False) -> float:
    """Return the CPU seconds that processes have used; with *children* also their ended ones'."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(value) for value in fields[11 : 15 if children else 13])
    return total / HZ


def daemons(peer: Peer) -> list[int]:
    """Return supervisors and workers of all hosts, without their jobs."""
    found = []
    for host in range(peer.hosts):
        for pid in peer.pids(host):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"echosched" in words and not words.startswith(bytes(peer.mark)):
                    found.append(pid)
    return found


def rate(instances: int, per_second: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run *per_second* jobs a second on *instances*; return lag and costs."""
    with workshop() as directory:
        mark = build(directory, "mark", MARK_C)
        seconds = options.seconds
        due = tuple(offsets(per_second, options.spread))
        kind = type(
            "Fleet", (Echosched,), {"hosts": instances, "offsets": due, "output": not options.no_output}
        )
        peer = kind(directory, mark, per_second, seconds)
        try:
            peer.prepare()
            for host in range(instances):
                peer.start(host)
            wait_for_marks(peer)
            time.sleep(2.0)
            server = peer.server.pids()
            own = daemons(peer)
            before = cpu(own), cpu(server, children=True)
            begin = int(time.time()) + 1
            time.sleep(begin + seconds - time.time())
            after = cpu(own), cpu(server, children=True)
            end = int(begin + seconds)
            time.sleep(SETTLE_SECONDS)
            every = marks(peer)
            found = [(job, second, at) for job, second, at in every if begin <= second < end]
            counted = f"slot >= {begin}000000 AND slot < {end}000000"  # not while the first was still alone
            owners = peer.server.ask(
                "bench", f"SELECT owner, count(*) FROM echosched.runs WHERE {counted} GROUP BY 1"
            )
        finally:
            peer.close()
    # What began in that time, for whichever slot: behind its time a fleet still does its work.
    ended = sum(begin <= at < end for _, _, at in every) or 1
    lags = [at - second for _, second, at in found]
    shares = [count for _, count in owners]
    return {
        "instances": instances,
        "rate": per_second,
        "due": per_second * (end - begin),
        "ran": len(found),
        "began": ended,
        "per_second": ended / seconds,
        "lag_p50_ms": percentile(lags, 0.5) * 1000,
        "lag_p99_ms": percentile(lags, 0.99) * 1000,
        "daemon_ms": (after[0] - before[0]) / ended * 1000,
        "postgres_ms": (after[1] - before[1]) / ended * 1000,
        "uneven": max(abs(share - statistics.mean(shares)) for share in shares) / statistics.mean(shares),
        "load": os.getloadavg()[0],
    }


def offsets(per_second: int, spread: bool) -> list[float]:
    """Return when in each second the jobs are due: all at once, or one after another."""
    return [n / per_second if spread else 0.0 for n in range(per_second)]


def bare(per_second: int, seconds: float, spread: bool) -> dict[str, Any]:
    """Do the same without a scheduler: a loop that sleeps to each second and starts the programs, one by one."""
    with workshop() as directory:
        mark = build(directory, "mark", MARK_C)
        peer = Peer(directory, mark, per_second, seconds)
        begin = int(time.time()) + 1
        children = []
        for second in range(begin, begin + int(seconds)):
            for n, offset in enumerate(offsets(per_second, spread)):
                time.sleep(max(0.0, second + offset - time.time()))
                words = [str(mark), str(peer.marks), f"j{n}", f"{second + offset:.6f}"]
                children.append(os.posix_spawn(mark, words, os.environ))
        for child in children:
            os.waitpid(child, 0)
        lags = [at - second for _, second, at in marks(peer)]
    return {"lag_p50_ms": percentile(lags, 0.5) * 1000, "lag_p99_ms": percentile(lags, 0.99) * 1000}


def rates(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each combination and print the table."""
    rows = []
    print(
        "| instances | due a second | run a second | lag p50 | p99 | CPU of the daemons a run | of PostgreSQL | "
        "farthest from an even share | load |\n|---|---|---|---|---|---|---|---|---|"
    )
    for per_second in options.rates:
        row = {"instances": 0, "rate": per_second, **bare(per_second, options.seconds, options.spread)}
        rows.append(row)
        print(
            f"| none, a bare loop | {per_second} | {per_second} | {row['lag_p50_ms']:.0f} ms | "
            f"{row['lag_p99_ms']:.0f} ms | | | | {os.getloadavg()[0]:.1f} |"
        )
    for instances in options.instances:
        for per_second in options.rates:
            row = rate(instances, per_second, options)
            rows.append(row)
            print(
                f"| {instances} | {per_second} | {row['per_second']:.0f} | {row['lag_p50_ms']:.0f} ms | "
                f"{row['lag_p99_ms']:.0f} ms | {row['daemon_ms']:.1f} ms | {row['postgres_ms']:.1f} ms | "
                f"{row['uneven']:.0%} | {row['load']:.1f} |",
                flush=True,
            )
    return rows


# ── store ─────────────────────────────────────────────────────────────────────────────────────


async def claims(dsn: str, batch: int, seconds: float, connections: int) -> int:
    """Claim and finish runs in batches for *seconds* over several stores; return how many."""
    from echosched.model import Claim, Ended, Result, State, Trigger
    from echosched.store.postgres import PostgresStore

    done = 0
    deadline = time.monotonic() + seconds

    async def one(number: int) -> None:
        nonlocal done
        store = PostgresStore(dsn, owner=f"bench{number}")
        await store.open()
        slot = datetime(2026, 1, 1, tzinfo=UTC)
        try:
            while time.monotonic() < deadline:
                slot += timedelta(seconds=1)
                wanted = [
                    Claim(f"j{number}-{n}", slot, Trigger.SCHEDULE, State.RUNNING, slot) for n in range(batch)
                ]
                runs = await store.claim(wanted)
                ends = [
                    Ended(run, wish.job, 1, slot, Result(State.SUCCEEDED, exit_code=0))
                    for wish, run in zip(wanted, runs, strict=True)
                    if run is not None
                ]
                await store.finish(ends)
                done += len(ends)
        finally:
            await store.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return done


def store(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure claims and ends by batch size and print the table."""
    rows = []
    print("| slots a commit | connections | slots a second | CPU of PostgreSQL a slot |\n|---|---|---|---|")
    for batch in options.batches:
        server = postgres()
        try:
            asyncio.run(claims(server.local("bench"), batch, 1.0, 2))  # tables, caches
            before = cpu(server.pids(), children=True)
            done = asyncio.run(claims(server.local("bench"), batch, options.seconds, 2))
            used = cpu(server.pids(), children=True) - before
        finally:
            server.remove()
        row = {
            "batch": batch,
            "per_second": done / options.seconds,
            "postgres_ms": used / max(1, done) * 1000,
        }
        rows.append(row)
        print(f"| {batch} | 2 | {row['per_second']:.0f} | {row['postgres_ms']:.3f} ms |", flush=True)
    return rows


def idle(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what instances cost that only beat and listen, and print the table."""
    rows = []
    print(
        "| instances | connections each | CPU of PostgreSQL for each, a second | transactions each, a second | "
        "CPU of a daemon, a second |\n|---|---|---|---|---|"
    )
    for instances in options.instances:
        with workshop() as directory:
            kind = type("Fleet", (Echosched,), {"hosts": instances, "schedule": "0 0 1 1 *"})
            peer = kind(directory, build(directory, "mark", MARK_C), 100, options.seconds)
            try:
                peer.prepare()
                for host in range(instances):
                    peer.start(host)
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    with contextlib.suppress(Exception):  # no tables yet
                        if peer.server.ask("bench", "SELECT count(*) FROM echosched.instances") == [
                            (instances,)
                        ]:
                            break
                    time.sleep(0.2)
                time.sleep(5.0)
                counted = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'bench'"
                own, server = daemons(peer), peer.server.pids()
                before = cpu(own), cpu(server, children=True), peer.server.ask("bench", counted)[0][0]
                time.sleep(options.seconds)
                after = cpu(own), cpu(server, children=True), peer.server.ask("bench", counted)[0][0]
                sessions = peer.server.ask(
                    "bench", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'echosched'"
                )[0][0]
            finally:
                peer.close()
        each = instances * options.seconds
        row = {
            "instances": instances,
            "connections": sessions / instances,
            "postgres_ms": (after[1] - before[1]) / each * 1000,
            "transactions": (after[2] - before[2]) / each,
            "daemon_ms": (after[0] - before[0]) / each * 1000,
        }
        rows.append(row)
        print(
            f"| {instances} | {row['connections']:.1f} | {row['postgres_ms']:.2f} ms | {row['transactions']:.1f} | "
            f"{row['daemon_ms']:.1f} ms |",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure what the command line asks for; the figures also go to bench/results/."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("peers")
    one.add_argument("peers", nargs="*", choices=[*PEERS, []], metavar="PEER")
    one.add_argument("--jobs", type=int, default=20)
    one.add_argument("--seconds", type=float, default=40.0)
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    two = parts.add_parser("rates")
    two.add_argument("--instances", type=numbers, default=[1, 2, 4])
    two.add_argument("--rates", type=numbers, default=[50, 100, 200])
    two.add_argument("--seconds", type=float, default=15.0)
    two.add_argument("--spread", action="store_true", help="due one after another, not all at each second")
    two.add_argument("--no-output", action="store_true", help="what jobs print is discarded, not kept")
    three = parts.add_parser("store")
    three.add_argument("--batches", type=numbers, default=[1, 10, 100])
    three.add_argument("--seconds", type=float, default=8.0)
    four = parts.add_parser("idle")
    four.add_argument("--instances", type=numbers, default=[1, 2, 4, 8])
    four.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    # So that whoever ends us leaves no server and no daemon behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = {"peers": peers, "rates": rates, "store": store, "idle": idle}[options.what](options)
    RESULTS.mkdir(exist_ok=True)
    shape = "_spread" if getattr(options, "spread", False) else ""
    (RESULTS / f"cluster_{options.what}{shape}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A thousand tiny jobs due at one second, in a real daemon, against a C loop in the same run.

    python bench/burst.py [--jobs N] [--rounds N] [--profile FILE]

Each round: a fresh home, a C loop of posix_spawn and wait with four alive before the slot and another
after it, the burst between them. The ratio is the burst's last start (after its slot) to the mean of the
two loops; the median over the rounds counts. One more round runs under strace, which slows it: it
counts fsyncs and tells how long one turn of the loop took (from one epoll_wait to the next) at worst.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common

QUERY = "SELECT started_at, ended_at, state FROM runs"


def config(tiny: Path, slot: datetime, jobs: int) -> str:
    at = slot.isoformat().replace("+00:00", "Z")
    return "".join(f'[job.j{i}]\nschedule = "at {at}"\ncommand = ["{tiny}"]\n' for i in range(jobs))


def one_round(
    directory: Path,
    tiny: Path,
    loop: Path,
    jobs: int,
    *,
    profile: str | None = None,
    trace: Path | None = None,
) -> dict[str, Any]:
    slot = common.slot_in(7)
    with common.Daemon(directory / f"home-{slot:%H%M%S}", config(tiny, slot, jobs)) as daemon:
        before = common.c_loop(loop, tiny, jobs)
        watcher = None
        if profile is not None:
            common.sleep_until(slot, before=1.0)
            words = ["py-spy", "record", "-p", str(daemon.worker), "-t", "-d", "3", "-r", "500"]
            watcher = subprocess.Popen(
                [Path(sys.executable).with_name(words[0]), *words[1:], "-f", "raw", "-o", profile],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        if trace is not None:
            common.sleep_until(slot, before=1.0)
            threads = [task.name for task in Path(f"/proc/{daemon.worker}/task").iterdir()]
            words = ["strace", "-ttt", "-T", "-o", str(trace), "-e", "trace=epoll_wait,fsync,fdatasync"]
            watcher = subprocess.Popen(
                [*words, *(word for tid in threads for word in ("-p", tid))],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        pids = {"worker": daemon.worker, "supervisor": daemon.supervisor}
        used = {name: common.cpu_seconds(pid) for name, pid in pids.items()}
        common.sleep_until(slot, before=-2.5)
        daemon.wait_for_ends(jobs)
        rows = daemon.rows(QUERY)
        used = {name: common.cpu_seconds(pid) - used[name] for name, pid in pids.items()}
        if watcher is not None:
            if trace is not None:
                watcher.terminate()
            watcher.wait()
    after = common.c_loop(loop, tiny, jobs)
    at = slot.timestamp()
    starts = sorted(started / 1e6 - at for started, _, _ in rows)
    lost = jobs - sum(state == "succeeded" for _, _, state in rows)
    reference = (before + after) / 2
    return {
        "slot": at,
        "first_start_ms": starts[0] * 1000,
        "last_start_s": starts[-1],
        "last_end_s": max(ended for _, ended, _ in rows) / 1e6 - at,
        "c_loop_s": reference,
        "ratio": starts[-1] / reference,
        "worker_cpu_s": used["worker"],
        "supervisor_cpu_s": used["supervisor"],
        "not_succeeded": lost,
    }


def read_trace(path: Path, slot: float, last_end: float) -> tuple[int, float]:
    """Return how many fsyncs the burst took, and its longest turn of the loop in milliseconds."""
    syncs, worst, returned = 0, 0.0, None
    # "TID TIME epoll_wait(FD, …) = N <SECONDS>"; of the two epoll descriptors the loop's has the lower number.
    waits: list[tuple[float, int, float]] = []
    pending: dict[str, tuple[float, int]] = {}
    for text in path.read_text().splitlines():
        thread, at_text, rest = text.split(None, 2)
        at = float(at_text)
        if not slot <= at <= slot + last_end:
            continue
        if rest.startswith(("fsync", "fdatasync")):
            syncs += 1
        took = re.search(r"<([\d.]+)>$", rest)
        if (call := re.match(r"epoll_wait\((\d+)", rest)) is not None:
            if "unfinished" in rest:
                pending[thread] = (at, int(call[1]))
            elif took is not None:
                waits.append((at, int(call[1]), at + float(took[1])))
        elif "epoll_wait resumed" in rest and thread in pending:
            began, descriptor = pending.pop(thread)
            waits.append((began, descriptor, at))
    if waits:
        lowest = min(descriptor for _, descriptor, _ in waits)
        for began, descriptor, ended in sorted(waits):
            if descriptor != lowest:
                continue
            if returned is not None:
                worst = max(worst, began - returned)
            returned = ended
    return syncs, worst * 1000


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--profile", help="only one round, under py-spy, stacks into this file")
    chosen = options.parse_args()
    with common.workshop() as directory:
        tiny = common.build(directory, "tiny", common.TINY_C, "-static")
        loop = common.build(directory, "loop", common.LOOP_C)
        if chosen.profile:
            print(one_round(directory, tiny, loop, chosen.jobs, profile=chosen.profile))
            return 0
        rounds = []
        for _ in range(chosen.rounds):
            rounds.append(one_round(directory, tiny, loop, chosen.jobs))
            last = rounds[-1]
            print(
                f"  {datetime.now(UTC):%H:%M:%S}  first {last['first_start_ms']:6.1f} ms  last"
                f" {last['last_start_s']:.3f} s  ended {last['last_end_s']:.3f} s"
                f"  C loop {last['c_loop_s']:.3f} s  ratio {last['ratio']:.2f}"
            )
        trace = directory / "trace"
        traced = one_round(directory, tiny, loop, chosen.jobs, trace=trace)
        syncs, turn = read_trace(trace, traced["slot"], traced["last_end_s"])
    figure = {key: common.median([one[key] for one in rounds]) for key in rounds[0]}
    return common.report(
        "burst",
        [
            common.row("last start ÷ C loop with 4 alive", figure["ratio"], 1.0, "×"),
            common.row("first start after the slot", figure["first_start_ms"], 10.0, "ms"),
            common.row("longest turn of the loop, under strace", turn, 5.0, "ms"),
            common.row("fsyncs in all, claims and ends, under strace", syncs, None),
            common.row("last start", figure["last_start_s"], None, "s"),
            common.row("last end recorded", figure["last_end_s"], None, "s"),
            common.row("C loop", figure["c_loop_s"], None, "s"),
            common.row("CPU of the worker", figure["worker_cpu_s"], None, "s"),
            common.row("CPU of the supervisor", figure["supervisor_cpu_s"], None, "s"),
            common.row("runs lost or failed, all rounds", sum(one["not_succeeded"] for one in rounds), 0),
        ],
        jobs=chosen.jobs,
        rounds=rounds,
        traced=traced,
    )


if __name__ == "__main__":
    sys.exit(main())

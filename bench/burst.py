"""A thousand tiny jobs due at one second, in a real daemon, against a C loop in the same run.

    python bench/burst.py [--jobs N] [--rounds N] [--profile FILE]

Each round: a fresh home, a C loop of posix_spawn and wait with four alive before the slot and another
after it, the burst between them. The ratio is the burst's last start (after its slot) to the mean of the
two loops; the median over the rounds counts. In one more round a C program asks the daemon's socket again and
again while the burst is on: how long an answer takes is how long a beat or another slot had to wait. It competes
for the same cores, so the same program asks an idle daemon too. One more round runs under strace, which slows
it: it counts fsyncs, those of the claims (before the slot, and until the first start) apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common

QUERY = "SELECT started_at, ended_at, state FROM runs"

PROBE_C = r"""
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* SOCKET FROM UNTIL: asks every 2 ms between two instants, prints each answer's time in ms. */
int main(int argc, char **argv) {
    struct sched_param first = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &first); /* where it may: what it waits for is then the daemon, not a core */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    int line = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(line, (struct sockaddr *)&address, sizeof address)) return 1;
    const char *question = "{\"op\": \"next\", \"args\": {\"n\": 1}}\n";
    char answer[65536];
    while (now(CLOCK_REALTIME) < atof(argv[2])) usleep(1000);
    while (now(CLOCK_REALTIME) < atof(argv[3])) {
        double begun = now(CLOCK_MONOTONIC);
        if (write(line, question, strlen(question)) < 0) return 1;
        ssize_t length;
        do {
            length = read(line, answer, sizeof answer);
            if (length <= 0) return 1;
        } while (answer[length - 1] != '\n');
        printf("%.3f\n", (now(CLOCK_MONOTONIC) - begun) * 1000);
        usleep(2000);
    }
    return 0;
}
"""


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
    probe: Path | None = None,
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
            words = ["strace", "-ttt", "-o", str(trace), "-e", "trace=fsync,fdatasync"]
            watcher = subprocess.Popen(
                [*words, *(word for tid in threads for word in ("-p", tid))],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        asked: dict[str, list[float]] = {"idle": [], "burst": []}
        if probe is not None:
            asked["idle"] = ask(probe, daemon, time.time(), 1.0)
            watcher = subprocess.Popen(
                question(probe, daemon, slot.timestamp() - 0.3, 1.3), stdout=subprocess.PIPE, text=True
            )
        pids = {"worker": daemon.worker, "supervisor": daemon.supervisor}
        used = {name: common.cpu_seconds(pid) for name, pid in pids.items()}
        common.sleep_until(slot, before=-2.5)
        daemon.wait_for_ends(jobs)
        rows = daemon.rows(QUERY)
        used = {name: common.cpu_seconds(pid) - used[name] for name, pid in pids.items()}
        if watcher is not None:
            if trace is not None:
                watcher.terminate()
            if probe is not None:
                asked["burst"] = [float(line) for line in watcher.communicate()[0].split()]
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
        "answers_ms": asked,
    }


def question(probe: Path, daemon: common.Daemon, begin: float, seconds: float) -> list[str]:
    return [str(probe), str(daemon.home / "echosched.sock"), f"{begin:.6f}", f"{begin + seconds:.6f}"]


def ask(probe: Path, daemon: common.Daemon, begin: float, seconds: float) -> list[float]:
    """Return how long each answer took, in milliseconds."""
    words = question(probe, daemon, begin, seconds)
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]


def read_trace(path: Path, first_start: float, last_end: float) -> tuple[int, int]:
    """Return how many commits came until the first start (the claims), and after it (the ends).

    A commit is one fsync by the store's writer, the thread with the most of them; a checkpoint is another's.
    """
    syncs: dict[str, list[float]] = {}
    for text in path.read_text().splitlines():
        thread, at, rest = text.split(None, 2)
        if rest.startswith(("fsync(", "fdatasync(")) and float(at) <= last_end:
            syncs.setdefault(thread, []).append(float(at))
    commits = max(syncs.values(), key=len, default=[])
    claims = sum(at <= first_start for at in commits)
    return claims, len(commits) - claims


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
        probed = one_round(
            directory, tiny, loop, chosen.jobs, probe=common.build(directory, "probe", PROBE_C)
        )
        answers = probed["answers_ms"]
        trace = directory / "trace"
        traced = one_round(directory, tiny, loop, chosen.jobs, trace=trace)
        at = traced["slot"]
        first, last = at + traced["first_start_ms"] / 1000, at + traced["last_end_s"]
        claims, ends = read_trace(trace, first, last)
        creation = common.creation_us(directory)
    keys = [key for key in rounds[0] if key != "answers_ms"]
    figure = {key: common.median([one[key] for one in rounds]) for key in keys}
    return common.report(
        "burst",
        [
            common.row("last start ÷ C loop with 4 alive", figure["ratio"], 1.0, "×"),
            common.row("the same, best round", min(one["ratio"] for one in rounds), None, "×"),
            common.row("first start after the slot", figure["first_start_ms"], 10.0, "ms"),
            common.row("fsyncs for the commits of all claims, under strace", claims, 5),
            common.row("fsyncs for the commits of all ends, under strace", ends, None),
            common.row(
                "an answer during the burst: 99 of 100", common.quantile(answers["burst"], 0.99), 5.0, "ms"
            ),
            common.row("an answer during the burst: the slowest", max(answers["burst"]), None, "ms"),
            common.row(
                "an answer of the idle daemon: 99 of 100", common.quantile(answers["idle"], 0.99), None, "ms"
            ),
            common.row("last start", figure["last_start_s"], None, "s"),
            common.row("last end recorded", figure["last_end_s"], None, "s"),
            common.row("C loop", figure["c_loop_s"], None, "s"),
            common.row("CPU of the worker", figure["worker_cpu_s"], None, "s"),
            common.row("CPU of the supervisor", figure["supervisor_cpu_s"], None, "s"),
            common.row("creating one file here", creation, None, "µs"),
            common.row("runs lost or failed, all rounds", sum(one["not_succeeded"] for one in rounds), 0),
        ],
        jobs=chosen.jobs,
        rounds=rounds,
        traced=traced,
    )


if __name__ == "__main__":
    sys.exit(main())

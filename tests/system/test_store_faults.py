"""Real faults: kill -9, a full disk, errors from the kernel, a read-only filesystem, a power cut, damaged pages."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.clock import SystemClock
from echosched.errors import StoreError, StoreUnavailable
from echosched.events import StoreDegraded, StoreRecovered
from echosched.model import Claim, Ended, JobRecord, Result, State, Trigger
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import RecordingSink

CHILD = Path(__file__).with_name("store_child.py")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def child(mode, path, begin, count, batch, *, under=()):
    command = [*under, sys.executable, str(CHILD), mode, str(path), str(begin), str(count), str(batch)]
    # Unbuffered: what readline() had taken ahead, communicate() would not see.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


class Said:
    """What a child acknowledged before it was gone."""

    def __init__(self) -> None:
        self.claimed: dict[tuple[str, datetime], int] = {}
        self.ended: set[int] = set()
        self.events: list[str] = []
        self.closed = False

    def hear(self, output: bytes) -> None:
        # The last line may lack its end; what was not said in full was not acknowledged.
        for line in output.decode().split("\n")[:-1]:
            words = line.split()
            if words[0] == "ended":
                self.ended.update(map(int, words[1:]))
            elif words[0] == "event":
                self.events.append(line)
            elif words[0].isdigit():
                slot = EPOCH + timedelta(minutes=int(words[0]))
                for n, word in enumerate(words[1:]):
                    if word != "-":
                        assert (f"job{n}", slot) not in self.claimed, "a slot was given out twice"
                        self.claimed[(f"job{n}", slot)] = int(word)
            self.closed |= line == "closed"


async def verify(path, said: Said) -> None:
    """The database is whole, and holds everything that was acknowledged, once."""
    store = SqliteStore(path)
    await store.open()
    assert await store.check() == []
    runs = {run.run: run for run in await store.history(limit=10**6)}
    slots = [(run.job, run.slot) for run in runs.values()]
    assert len(slots) == len(set(slots)), "a slot has two runs"
    for slot, number in said.claimed.items():
        assert (runs[number].job, runs[number].slot) == slot
    for number in said.ended:
        assert runs[number].state == State.SUCCEEDED
    await store.close()


def claims_of(minute, jobs=20):
    slot = EPOCH + timedelta(minutes=minute)
    return [Claim(f"job{n}", slot, Trigger.SCHEDULE, State.RUNNING, slot) for n in range(jobs)]


def ends_of(runs):
    return [Ended(run, f"job{n}", 1, EPOCH, Result(State.SUCCEEDED)) for n, run in enumerate(runs)]


def resilient(path, **settings):
    sink = RecordingSink()
    settings = {"retry_seconds": (0.01, 0.1)} | settings
    return ResilientStore(SqliteStore(path, owner="here:1"), SystemClock(), sink, **settings), sink


async def until_good(store):
    async with asyncio.timeout(60):
        while store.degraded_since is not None:
            await asyncio.sleep(0.02)


async def all_is_there(path, claimed, ended=()):
    """A store opened anew is whole and has each claimed run, once for each slot."""
    store = SqliteStore(path)
    await store.open()
    assert await store.check() == []
    runs = await store.history(limit=10**6)
    assert sorted(run.run for run in runs) == sorted(claimed)
    assert len({(run.job, run.slot) for run in runs}) == len(runs)
    assert {run.run for run in runs if run.state == State.SUCCEEDED} == set(ended)
    await store.close()


@pytest.fixture
def ext4(tmp_path, mounted):
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    return image


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────


def test_kill_9_in_the_middle_of_claims_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "echosched.db"
    said = Said()
    chance = random.Random(9)
    for round_ in range(6):
        process = child("plain", path, round_ * 10_000, 10_000, 20)
        lines = chance.randrange(2, 80)
        output = b"".join(process.stdout.readline() for _ in range(lines))
        process.kill()
        rest, errors = process.communicate(timeout=30)
        assert not errors
        said.hear(output + rest)
        asyncio.run(verify(path, said))
    assert len(said.claimed) > 100


@needs_strace
@pytest.mark.parametrize("call", ["pwrite64:when=35", "pwrite64:when=90", "fdatasync,fsync:when=12"])
def test_kill_9_at_a_chosen_system_call_loses_nothing_that_was_acknowledged(tmp_path, call):
    path = tmp_path / "echosched.db"
    calls, when = call.split(":")
    strace = ("strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}")
    process = child("plain", path, 0, 60, 20, under=(*strace, "-e", f"inject={calls}:signal=KILL:{when}"))
    output, _ = process.communicate(timeout=100)
    said = Said()
    said.hear(output)
    assert not said.closed, "the signal never came"
    asyncio.run(verify(path, said))


def test_two_processes_claiming_the_same_slots_get_one_run_for_each(tmp_path):
    path = tmp_path / "echosched.db"
    children = [child("plain", path, 0, 40, 25) for _ in range(2)]
    said = Said()
    for process in children:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
        said.hear(output)  # complains if both got the same slot
    assert len(said.claimed) == 40 * 25
    asyncio.run(verify(path, said))


def fill_up(disk):
    """Leave no byte of *disk* free."""
    with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0


# ── full ──────────────────────────────────────────────────────────────────────────────────────


@needs_root
@pytest.mark.root
async def test_a_full_disk_stops_no_claim_and_everything_is_written_when_there_is_room(mounted):
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    path = disk / "echosched.db"
    store, sink = resilient(path)
    await store.open()
    claimed, ended = await store.claim(claims_of(0)), []
    fill_up(disk)
    minute = 0
    while store.degraded_since is None:
        minute += 1
        assert minute < 1_000
        claimed += await store.claim(claims_of(minute))
    for _ in range(30):
        minute += 1
        runs = await store.claim(claims_of(minute))
        assert await store.finish(ends_of(runs)) == [True] * len(runs)
        claimed += runs
        ended += runs
    assert None not in claimed
    assert len(await store.active()) == len(claimed) - len(ended)
    assert "full" in sink.of(StoreDegraded)[0].reason
    os.unlink(disk / "filler")
    await until_good(store)
    assert sink.of(StoreRecovered)[0].lost == 0
    assert await store.claim(claims_of(minute)) == [None] * 20
    await store.close()
    await all_is_there(path, claimed, ended)


@needs_root
@pytest.mark.root
async def test_the_log_of_a_database_does_not_fill_a_small_disk(mounted):
    """A commit takes several pages of the log: 300 of them would take megabytes if none were used anew."""
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    store, sink = resilient(disk / "echosched.db")
    await store.open()
    for minute in range(300):
        await store.finish(ends_of(await store.claim(claims_of(minute, 2))))
    assert not sink.events
    assert len(await store.history(limit=1000)) == 600
    await store.close()


@needs_root
@pytest.mark.root
async def test_a_worker_can_start_on_a_full_disk_after_another_was_killed(mounted):
    """The log still holds what was committed; there is no room even for the shared memory."""
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    path = disk / "echosched.db"
    process = child("plain", path, 0, 10_000, 5)
    output = b"".join(process.stdout.readline() for _ in range(20))
    process.kill()
    said = Said()
    said.hear(output + process.communicate(timeout=30)[0])
    os.unlink(f"{path}-shm")
    fill_up(disk)
    store, _ = resilient(path, lenient=True)
    await store.open()
    assert store.degraded_since is not None
    last = max(slot for _, slot in said.claimed)
    again = [Claim(f"job{n}", last, Trigger.SCHEDULE, State.RUNNING, last) for n in range(5)]
    assert await store.claim(again) == [None] * 5
    (fresh,) = await store.claim([Claim("new", last, Trigger.SCHEDULE, State.RUNNING, last)])
    assert fresh > max(said.claimed.values())
    os.unlink(disk / "filler")
    await until_good(store)
    assert (await store.get_run(fresh)).job == "new"
    await store.close()
    await verify(path, said)


@needs_root
@pytest.mark.root
async def test_a_worker_can_start_on_a_full_disk_and_knows_what_was_claimed(mounted):
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    path = disk / "echosched.db"
    first = SqliteStore(path)
    await first.open()
    before = await first.claim(claims_of(0))
    await first.save_jobs([JobRecord("paused", cursor_at=EPOCH, paused=True)])
    await first.close()
    fill_up(disk)
    strict, _ = resilient(path)
    with pytest.raises(StoreUnavailable):
        await strict.open()
    store, _ = resilient(path, lenient=True)
    await store.open()
    assert store.degraded_since is not None
    assert (await store.load_jobs())["paused"].paused
    assert {run.run for run in await store.active()} == set(before)
    assert await store.claim(claims_of(0)) == [None] * 20
    later = await store.claim(claims_of(1))
    assert None not in later
    assert await store.finish(ends_of(before)) == [True] * 20
    os.unlink(disk / "filler")
    await until_good(store)
    await store.close()
    await all_is_there(path, before + later, before)


# ── the kernel says no ────────────────────────────────────────────────────────────────────────


@needs_strace
@pytest.mark.parametrize(
    "fault",
    [
        "fdatasync,fsync:error=EIO:when=12..40",
        "fdatasync,fsync:error=EIO:when=15",
        "pwrite64:error=ENOSPC:when=60..90",
        "pwrite64:error=EIO:when=70..75",
        "pwrite64:error=EROFS:when=50..80",
        "pread64:error=EIO:when=40..60",
    ],
)
def test_errors_of_the_kernel_stop_no_claim_and_lose_nothing(tmp_path, fault):
    calls = fault.split(":")[0]
    strace = ("strace", "-f", "-o", str(tmp_path / "trace"), "-e", f"trace={calls}", "-e", f"inject={fault}")
    path = tmp_path / "echosched.db"
    process = child("resilient", path, 0, 60, 20, under=strace)
    output, errors = process.communicate(timeout=110)
    said = Said()
    said.hear(output)
    assert process.returncode == 0, errors.decode()
    assert said.closed
    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert len(said.claimed) == 60 * 20
    assert len(said.ended) == 60 * 10
    degraded = [event for event in said.events if "degraded" in event]
    recovered = [event for event in said.events if "recovered" in event]
    assert len(degraded) == len(recovered)
    asyncio.run(verify(path, said))
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
def test_short_writes_stop_no_claim_and_lose_nothing(tmp_path):
    """A limit of the file size in the middle of a page makes the kernel write a part of it."""
    path = tmp_path / "echosched.db"
    process = child("resilient", path, 0, 60, 20, under=("prlimit", "--fsize=150100:unlimited"))
    output = b""
    while b"store_degraded" not in output:
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        output += line
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rest, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()
    said = Said()
    said.hear(output + rest)
    assert len(said.claimed) == 60 * 20
    assert "event store_recovered" in said.events
    asyncio.run(verify(path, said))


@needs_root
@pytest.mark.root
async def test_a_filesystem_gone_read_only_is_borne_until_it_is_mounted_anew(ext4, mounted, tmp_path):
    disk = mounted("-o", "loop,errors=remount-ro", str(ext4))
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(disk)], capture_output=True, text=True).stdout
    trigger = Path("/sys/fs/ext4") / Path(device.strip()).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel cannot be asked for a filesystem error")
    path = disk / "echosched.db"
    store, sink = resilient(path)
    await store.open()
    claimed = await store.claim(claims_of(0))
    trigger.write_text("a test wants this filesystem read-only\n")
    for minute in range(1, 10):
        claimed += await store.claim(claims_of(minute))
        await asyncio.sleep(0.01)
    assert None not in claimed
    assert len(sink.of(StoreDegraded)) == 1
    assert len(await store.history(limit=1_000)) == len(claimed)
    # Nothing of it is kept open between tries, so the operator can unmount and repair it.
    async with asyncio.timeout(60):
        while subprocess.run(["umount", str(disk)], capture_output=True).returncode:
            await asyncio.sleep(0.03)
    subprocess.run(["e2fsck", "-fy", str(ext4)], capture_output=True)
    await asyncio.sleep(0.5)
    assert store.degraded_since is not None, "an empty mount point is no place to recover to"
    assert list(disk.iterdir()) == []
    again = subprocess.run(["mount", "-o", "loop", str(ext4), str(disk)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    await until_good(store)
    await store.close()
    await all_is_there(path, claimed)


EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2


@needs_root
@pytest.mark.root
def test_after_a_power_cut_all_that_was_acknowledged_is_there(ext4, mounted):
    said = Said()
    for round_, lines in enumerate((5, 40)):
        disk = mounted("-o", "loop", str(ext4))
        path = disk / "echosched.db"
        process = child("plain", path, round_ * 1_000, 1_000, 20)
        output = b"".join(process.stdout.readline() for _ in range(lines))
        directory = os.open(disk, os.O_RDONLY)
        # With the power the process stops too. Left running, it may be told that an fsync() went well which
        # this ioctl overlapped: the kernel finds its transaction no more and takes it for written.
        process.send_signal(signal.SIGSTOP)
        try:
            fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as error:
            pytest.skip(f"this kernel cannot cut the power of a filesystem: {error}")
        finally:
            os.close(directory)
            process.kill()
            rest, _ = process.communicate(timeout=30)
        said.hear(output + rest)
        subprocess.run(["umount", str(disk)], check=True)
        disk = mounted("-o", "loop", str(ext4))
        asyncio.run(verify(disk / "echosched.db", said))
        subprocess.run(["umount", str(disk)], check=True)
    assert len(said.claimed) >= 20 * 20


# ── damaged, locked ───────────────────────────────────────────────────────────────────────────


async def test_pages_damaged_while_running_are_set_aside_and_no_claim_fails(tmp_path):
    path = tmp_path / "echosched.db"
    store, sink = resilient(path)
    await store.open()
    await store.save_jobs([JobRecord("job1", cursor_at=EPOCH, paused=True)])
    old = []
    for minute in range(20):
        old += await store.claim(claims_of(minute, jobs=100))
    await store.finish(ends_of(old[:-100]))
    await asyncio.to_thread(_checkpoint, path)
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    claimed = []
    minute = 100
    while not sink.of(StoreRecovered):
        minute += 1
        assert minute < 3_000
        claimed += await store.claim(claims_of(minute))
        await store.history(limit=1_000)
        await asyncio.sleep(0.005)
    assert None not in claimed
    assert min(claimed) > max(old)
    (aside,) = [p for p in tmp_path.glob("*.damaged-*") if p.name.endswith("Z")]
    assert sink.of(StoreRecovered)[0].set_aside == str(aside)
    assert aside.stat().st_size >= size
    runs = await store.history(limit=10**6)
    assert {run.run for run in runs} >= set(old[-100:]), "running runs are known to the fresh database"
    record = (await store.load_jobs())["job1"]
    assert record.paused
    assert record.cursor_at > EPOCH + timedelta(days=30), "nothing before the damage is caught up"
    assert await store.finish(ends_of(old[-100:])) == [True] * 100
    assert await store.claim(claims_of(0, jobs=100)) == [None] * 100, (
        "the clock was set back: they ran already"
    )
    assert await store.check() == []
    await store.close()


def _checkpoint(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def test_a_database_that_another_program_locks_stops_no_claim(tmp_path):
    path = tmp_path / "echosched.db"
    inner = SqliteStore(path, busy_seconds=0.05)
    sink = RecordingSink()
    store = ResilientStore(inner, SystemClock(), sink, retry_seconds=(0.01, 0.1))
    await store.open()
    claimed = await store.claim(claims_of(0))
    holder = subprocess.Popen(
        ["python3", "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    for minute in range(1, 6):
        claimed += await store.claim(claims_of(minute))
    assert "another program holds its lock" in sink.of(StoreDegraded)[0].reason
    holder.communicate("", timeout=30)
    await until_good(store)
    await store.close()
    await all_is_there(path, claimed)


_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


async def test_a_file_replaced_by_something_else_is_not_written_to(tmp_path):
    path = tmp_path / "echosched.db"
    store = SqliteStore(path)
    await store.open()
    await store.claim(claims_of(0))
    await store.close()
    path.write_bytes(b"a diary\n" * 1_000)
    with pytest.raises(StoreError, match="not a SQLite database"):
        await store.open()
    assert path.read_bytes() == b"a diary\n" * 1_000

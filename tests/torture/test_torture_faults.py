"""Disks that fail under a whole daemon, and daemons that die while they fail."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from echosched.operations.pieces import spare_directories
from tests.system.conftest import eventually

from .driver import DAEMON, Ordeal
from .faults import full, no_room
from .oracle import EPOCH, Account, read_marks, read_rows
from .syscalls import Injection, alive

DEEP = os.environ.get("ECHOSCHED_DEEP") == "1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and attaching take root")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
pytestmark = needs_root

EXACT = 'catchup = "all"\noverlap = "allow"\n'
JOBS = {
    "quick": ("* * * * * *", "", EXACT),
    "slow": ("*/2 * * * * *", "sleep 1.5", EXACT),
    "plain": ("*/2 * * * * *", "sleep 0.2", ""),
    "again": ("*/2 * * * * *", "sleep 0.3", EXACT + 'on_abandoned = "retry"\n'),
}
WATCHDOG_SECONDS = 4
EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2


def ext4_image(directory: Path) -> Path:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    return image


def mount_anew(image: Path, disk: Path, *, check: bool = False) -> Path:
    """Unmount *image* and mount what it held; return the new image."""
    subprocess.run(["umount", str(disk)], check=True)
    # A copy: a container that somebody starts meanwhile keeps the old mount, and with it the broken filesystem.
    copy = image.with_suffix(f".{time.monotonic_ns()}.img")
    shutil.copyfile(image, copy)
    image.unlink()
    if check:
        subprocess.run(["e2fsck", "-fy", str(copy)], capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(copy), str(disk)], check=True)
    return copy


def ran_since(ordeal: Ordeal, instant: datetime) -> int:
    return sum(slot > instant for _, slot, _ in read_marks(ordeal.marks))


def wait_for_runs(ordeal: Ordeal, count: int, since: datetime | None = None) -> None:
    """Wait until *count* jobs were there for slots that came after *since* (default: now)."""
    instant = datetime.now(UTC) if since is None else since
    eventually(lambda: ran_since(ordeal, instant) >= count)


def health(ordeal: Ordeal) -> str:
    return str(ordeal.status["health"])


def degraded(ordeal: Ordeal) -> bool:
    return bool(ordeal.status["degraded_since"])


def begin(ordeal: Ordeal, daemon: str = DAEMON) -> None:
    """Start a daemon, and wait until it runs jobs."""
    ordeal.furnish(JOBS, followers=False, daemon=daemon)
    ordeal.ok("start")
    wait_for_runs(ordeal, 3, EPOCH)


def end(ordeal: Ordeal, what: str, *, blind: bool = False) -> Account:
    """Let all be caught up, stop, and print the account, in which nothing may be lost or doubled."""
    account = ordeal.account(ordeal.calm_down(), blind=blind)
    print(f"\n{what}: {account.line}")
    account.hold()
    return account


def on_disk(ordeal: Ordeal, disk: Path) -> None:
    """Put database and journal on *disk*; all else stays in the home."""
    ordeal.database = disk / "echosched.db"
    ordeal.environ |= {"ECHOSCHED_DB": str(ordeal.database), "ECHOSCHED_LOG": str(disk / "echosched.log")}


@contextlib.contextmanager
def short_writes(worker: int) -> Iterator[None]:
    """Have the kernel write short at a limit in the middle of a page, and nothing behind it."""
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (50_100, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, no_limit)


@contextlib.contextmanager
def hanging(worker: int) -> Iterator[None]:
    """Let no flush come back, for longer than the watchdog waits for a beat."""
    until = time.monotonic() + WATCHDOG_SECONDS + 2.0
    with Injection(worker, "fdatasync:delay_enter=60000000:when=1+"):
        yield
        time.sleep(max(0.0, until - time.monotonic()))


@needs_strace
@pytest.mark.timeout(300)
def test_whatever_the_disk_does_no_job_stops_and_no_row_or_line_is_missing(
    ordeal: Ordeal, mounted: Callable[..., Path]
) -> None:
    """One worker lives through all of it: errors, short writes, a flush that hangs, a journal without room."""
    disk = mounted("-t", "tmpfs", "-o", "size=512k", "tmpfs")
    log = disk / "echosched.log"
    ordeal.environ |= {"ECHOSCHED_LOG": str(log)}
    begin(ordeal, daemon=DAEMON + f'watchdog = "{WATCHDOG_SECONDS}s"\n')
    worker = eventually(ordeal.find_worker)
    calls = ["fdatasync:error=EIO"] + (["pwrite64:error=ENOSPC", "pwrite64:error=EIO"] if DEEP else [])
    spells: dict[str, contextlib.AbstractContextManager[Any]] = {
        call: Injection.later(worker, f"{call}:when=1+") for call in calls
    }
    spells |= {
        "short writes": short_writes(worker),
        "journal: full": no_room(disk),
        "journal: EROFS": Injection.later(worker, "write:error=EROFS:when=1+", path=log),
        "fdatasync hangs": hanging(worker),
    }
    for name, spell in spells.items():
        with spell:
            if name.startswith("journal"):
                eventually(lambda: health(ordeal) == "degraded")
                assert "the journal cannot be written" in ordeal.run("status").stdout
                assert not degraded(ordeal)  # the store is well
            else:
                eventually(lambda: degraded(ordeal))
            wait_for_runs(ordeal, 3)
            # A log begun anew is short: it fits below the limit.
            assert health(ordeal) == "degraded" or name == "short writes"
        eventually(lambda: health(ordeal) == "ok")
        assert ordeal.find_worker() == worker, name
    assert end(ordeal, f"{len(spells)} kinds of faults").abandoned == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = Counter(line["run"] for line in lines if line["event"] == "run_end")
    runs = {row.run for row in read_rows(ordeal.database) if row.state == "succeeded"}
    assert runs <= set(told)
    assert set(told.values()) == {1}
    events = [line["event"] for line in lines if line["event"].startswith("store")]
    assert len(events) >= 2 * (len(spells) - 2)
    assert set(events[::2]) == {"store_degraded"}
    assert set(events[1::2]) == {"store_recovered"}
    assert "watchdog" not in {line["event"] for line in lines}
    assert "has not answered" in [line for line in lines if line["event"] == "store_degraded"][-1]["reason"]


@needs_strace
@pytest.mark.deep
@pytest.mark.timeout(240)
def test_a_worker_killed_while_the_disk_fails_doubles_nothing(ordeal: Ordeal) -> None:
    """Nobody can know what ran: those slots end as abandoned, and are not caught up."""
    begin(ordeal)
    for _ in range(6):
        worker = eventually(ordeal.find_worker)
        injection = Injection(worker, "fdatasync:error=EIO:when=1+")
        eventually(lambda: degraded(ordeal))
        time.sleep(ordeal.chance.uniform(0.0, 2.0))
        ordeal.kill_worker()
        injection.close()
        eventually(lambda: health(ordeal) == "ok")
        time.sleep(1)
    assert end(ordeal, f"killed while degraded {ordeal.worker_kills} times", blind=True).abandoned > 0


@pytest.mark.timeout(240)
def test_on_a_full_disk_workers_and_daemons_may_die_or_be_stopped_and_nothing_is_doubled(
    ordeal: Ordeal, mounted: Callable[..., Path]
) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    on_disk(ordeal, disk)
    begin(ordeal)
    with full(ordeal, disk):
        eventually(lambda: degraded(ordeal))
        wait_for_runs(ordeal, 3)
        for _ in range(3 if DEEP else 1):
            ordeal.kill_worker()  # the next one begins on a full disk, and goes on
            eventually(lambda: ordeal.find_worker() is not None and degraded(ordeal))
            wait_for_runs(ordeal, 3)
        ordeal.kill_supervisor(restart=False)
        refused = ordeal.run("start")
        assert refused.returncode == 1
        assert "full" in refused.stderr
    ordeal.ok("start")
    eventually(lambda: health(ordeal) == "ok")
    wait_for_runs(ordeal, 3)
    with full(ordeal, disk):
        eventually(lambda: degraded(ordeal))
        wait_for_runs(ordeal, 2)
        ordeal.ok("stop")
        assert "could not be written" in ordeal.out
    ordeal.ok("start")
    assert end(ordeal, "full disk: worker and supervisor killed, daemon stopped", blind=True).abandoned > 0


@pytest.mark.timeout(240)
def test_a_filesystem_that_goes_read_only_stops_no_job(
    ordeal: Ordeal, mounted: Callable[..., Path], tmp_path: Path
) -> None:
    image = ext4_image(tmp_path)
    disk = mounted("-o", "loop,errors=remount-ro", str(image))
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(disk)], capture_output=True, text=True).stdout
    trigger = Path("/sys/fs/ext4") / Path(device.strip()).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel cannot be asked for a filesystem error")
    on_disk(ordeal, disk)
    (disk / "runs").mkdir()
    (ordeal.directory / "runs").symlink_to(disk / "runs")  # outputs too: they go to memory, and come home
    begin(ordeal)
    trigger.write_text("a test wants this filesystem read-only\n")
    eventually(lambda: degraded(ordeal))
    wait_for_runs(ordeal, 4)
    assert "some lie in memory" in ordeal.run("status").stdout
    ordeal.ok("stop")
    mount_anew(image, disk, check=True)
    (disk / "runs").mkdir(exist_ok=True)  # it may have been too young
    spare = [Path(each) for each in spare_directories(str(ordeal.directory / "runs"))]
    kept = {path.name for each in spare if each.exists() for path in each.iterdir()}
    ordeal.ok("start")
    eventually(lambda: not any(each.exists() for each in spare))
    assert kept <= {path.name for path in (disk / "runs").rglob("*.log")}
    end(ordeal, "read-only, repaired, mounted anew", blind=True)


@pytest.mark.timeout(300)
def test_after_a_power_cut_what_was_reported_is_there_and_nothing_is_doubled(
    ordeal: Ordeal, mounted: Callable[..., Path], tmp_path: Path
) -> None:
    """The filesystem loses all that was not flushed; the jobs' own marks lie on another one and tell."""
    image = ext4_image(tmp_path)
    disk = mounted("-o", "loop", str(image))
    marks = ordeal.marks
    ordeal.directory = disk
    ordeal.database, ordeal.marks = disk / "echosched.db", marks
    ordeal.furnish(JOBS, followers=False)
    for path in (disk / "echosched.toml", disk):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    reported: dict[int, dict[str, Any]] = {}
    for _ in range(4 if DEEP else 1):
        ordeal.ok("start")
        time.sleep(ordeal.chance.uniform(2.0, 4.0))
        rows = ordeal.history()
        worker, supervisor = ordeal.find_worker(), ordeal.pid
        directory = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(directory)
        for pid in (supervisor, worker):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: not alive(pid))
        time.sleep(2)  # the jobs, which a real cut would have ended
        image = mount_anew(image, disk)
        reported |= {row["run"]: row for row in rows}
        connection = sqlite3.connect(ordeal.database)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = dict(connection.execute("SELECT run, state FROM runs"))
        for number, row in reported.items():
            assert number in stored, ("reported before the cut, gone after it", row)
            if row["state"] not in ("queued", "running"):
                assert stored[number] == row["state"]
        # What a machine finds that really went down: another boot.
        connection.execute("UPDATE notes SET value = 'another boot' WHERE key = 'boot'")
        connection.commit()
        connection.close()
    ordeal.ok("start")
    end(ordeal, f"power cuts {4 if DEEP else 1}: {len(reported)} rows reported before", blind=True)

"""What ``doctor`` asks of the host: detaching, locks, clocks, zones, limits, kernel features."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from echosched.cli.findings import Finding, bad, ok, warn
from echosched.clock import SystemClock
from echosched.daemon import host, probe
from echosched.executor import cgroup
from echosched.executor.proc import exit_status

if TYPE_CHECKING:
    from datetime import datetime

    from echosched.config.paths import Paths
    from echosched.config.settings import Config

BIRTH_YEAR = 2026  # a clock before the program's own birth is wrong
OLD_ZONES_YEARS = 2
NEEDED_DESCRIPTORS = 64  # database, journal, socket, clients; jobs come on top
PER_RUN_DESCRIPTORS = 3


def detaching(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether a detached process lives on."""
    reason = host.foreground_reason()
    if reason is not None:
        yield warn(
            "detaching",
            f"start stays in the foreground: {reason}",
            "nothing to do: the foreground has the same locks, logs and status (start --detach insists)",
        )
        return
    seen = probe.detaching()
    if seen.alive:
        yield ok("detaching", f"a detached process lived on (adopted by process {seen.parent})")
    else:
        yield bad(
            "detaching",
            "a detached process was killed when its starter ended",
            "use start --foreground under whatever keeps processes here (a service manager, a container's command)",
        )


def locks(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether a lock keeps a second process out, where pidfile and database lie."""
    places: dict[str, list[str]] = {}
    for name, path in (("pidfile", paths.pidfile), ("db", paths.db)):
        places.setdefault(existing(os.path.dirname(path)), []).append(name)
    for directory, names in places.items():
        kind = probe.filesystem(directory)
        move = "on a local filesystem: " + " ".join(f"--{name}" for name in names)
        shown = f"{directory} ({kind or 'unknown filesystem'})"
        try:
            excludes = probe.lock_excludes(directory)
        except OSError as error:
            reason = error.strerror or str(error)
            yield bad("locks", f"{shown}: no lock could be tried: {reason}", f"make {directory} writable")
            continue
        if not excludes:
            yield bad("locks", f"{shown}: a lock does not keep others out", move)
        elif kind in probe.NETWORK_FILESYSTEMS:
            finding = f"{shown}: locks hold on this host; other hosts, and SQLite's log, are at risk"
            yield (bad if "db" in names else warn)("locks", finding, move)
        else:
            yield ok("locks", f"{shown}: a lock keeps others out")


def existing(directory: str) -> str:
    """Return *directory*, or the nearest one above it that exists."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory) or "/"
    return directory


# ── clocks and zones ──────────────────────────────────────────────────────────────────────────


def clocks(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether the wall clock is plausible and kept right."""
    now = SystemClock().now()
    if now.year < BIRTH_YEAR:
        yield bad(
            "clock",
            f"it is {now:%Y-%m-%d} here, before this program was written",
            "set the clock (timedatectl)",
        )
    state = probe.discipline()
    if state is None:
        yield warn("clock", "the kernel does not say whether the clock is kept right", "see that NTP runs")
    elif state.synchronized:
        yield ok("clock", f"kept right by NTP or the like (at most {state.error_seconds * 1000:.0f} ms off)")
    else:
        yield warn(
            "clock",
            "nobody keeps this clock right: slots drift from true time, and steps come as jumps",
            "run chrony or systemd-timesyncd (in a container or a guest: on its host)",
        )


def zones(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See where time zones come from and how old their rules are."""
    source, version = zone_data()
    if source is None:
        yield bad(
            "time zones",
            "there is no time zone data: only UTC works",
            "install tzdata (Debian) or pip install tzdata",
        )
        return
    now = SystemClock().now()
    if version is None:
        yield warn("time zones", f"{source}: its version is not told", "see that tzdata is up to date")
    elif _age_years(version, now) >= OLD_ZONES_YEARS:
        yield warn(
            "time zones",
            f"{source}: version {version} is old: rules that changed since are missing",
            "update tzdata, then echoschedd restart --keep-jobs",
        )
    else:
        yield ok("time zones", f"{source}: version {version}")
    if config is not None and (changes := _changes(config, now)):
        count = f"{changes} job{'s' if changes != 1 else ''}"
        yield ok(
            "daylight",
            f"{count} will meet a change of the clocks within a year (echoschedd check names them)",
        )


def _age_years(version: str, now: datetime) -> int:
    match = re.match(r"\d{4}", version)
    return now.year - int(match[0]) if match else 0


def _changes(config: Config, now: datetime) -> int:
    from echosched.config.daylight import count_daylight

    return count_daylight(config.jobs.values(), now)


def zone_data() -> tuple[str | None, str | None]:
    """Return where time zones are read from, and the version of that data where it is told."""
    import zoneinfo

    for place in zoneinfo.TZPATH:
        if os.path.exists(os.path.join(place, "Etc/UTC")) or os.path.exists(os.path.join(place, "UTC")):
            return place, _zone_version(place)
    try:
        import tzdata  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None, None
    return "the tzdata package", str(tzdata.IANA_VERSION)


def _zone_version(place: str) -> str | None:
    for name, pattern in (("tzdata.zi", r"# version (\S+)"), ("+VERSION", r"(\S+)"), ("version", r"(\S+)")):
        try:
            with open(os.path.join(place, name), encoding="utf-8", errors="replace") as file:
                match = re.match(pattern, file.readline())
        except OSError:
            continue
        if match:
            return match[1]
    return None


# ── limits ────────────────────────────────────────────────────────────────────────────────────


def limits(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether as many runs as configured can be under way at once."""
    import resource

    runs = 64 if config is None else config.daemon.max_concurrent
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = NEEDED_DESCRIPTORS + PER_RUN_DESCRIPTORS * runs
    if soft != resource.RLIM_INFINITY and soft < needed:
        cure = f"ulimit -n {needed} (LimitNOFILE={needed} in a unit), or lower daemon.max_concurrent"
        yield bad("descriptors", f"a limit of {soft}, but {runs} runs at once need about {needed}", cure)
    else:
        yield ok("descriptors", f"a limit of {_number(soft)}; {runs} runs at once need about {needed}")
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    room, who = min(
        (value, name)
        for value, name in (
            (_plain(soft), "user limit"),
            (_pids_max(), "cgroup's pids.max"),
            (_pid_max(), "kernel's pid_max"),
        )
    )
    if room < 2 * runs + 50:
        yield bad(
            "processes",
            f"room for {room} ({who}), but {runs} runs at once want {2 * runs + 50}",
            f"raise it (ulimit -u, TasksMax=, --pids-limit), or lower daemon.max_concurrent below {runs}",
        )
    else:
        yield ok("processes", f"room for {_number(room)} ({who})")


def _plain(value: int) -> int:
    return 1 << 62 if value < 0 else value


def _number(value: int) -> str:
    return "any number" if value < 0 or value >= 1 << 62 else str(value)


def _pid_max() -> int:
    return _number_in("/proc/sys/kernel/pid_max")


def _pids_max() -> int:
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            own = [line.strip().split(":", 2) for line in file]
    except (OSError, UnicodeDecodeError):
        return 1 << 62
    found = 1 << 62
    for _, controllers, path in own:
        base = (
            "/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/pids" if "pids" in controllers else None
        )
        while base is not None and path not in ("", "/"):
            found = min(found, _number_in(f"{base}{path}/pids.max"))
            path = os.path.dirname(path)
    return found


def _number_in(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return 1 << 62
    return int(text) if text.isdigit() else 1 << 62


# ── kernel ────────────────────────────────────────────────────────────────────────────────────


def kernel(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """Name the kernel features in use, and what is done instead where one is missing."""
    features = (
        (probe.timerfd, "timerfd", "clock changes are noticed at once", "they are noticed within 5 s"),
        (probe.pidfd, "pidfd", "jobs are watched and signalled by descriptor", "jobs are watched by polling"),
        (
            lambda: probe.pidfd_tells_exit(exit_status),
            "PIDFD_GET_INFO",
            "exit codes survive the death of the supervisor",
            "a run that outlives worker and supervisor is recorded as abandoned (Linux 6.15 has it)",
        ),
        (
            probe.subreaper,
            "subreaper",
            "jobs of a dead worker come back to the supervisor",
            "their exit codes are lost with the worker",
        ),
        (
            probe.parent_death_signal,
            "PDEATHSIG",
            "a worker ends with its supervisor",
            "a worker notices its supervisor's end by its pipe",
        ),
        (
            probe.processes_visible,
            "/proc",
            "all processes of a run are found by their mark",
            "only a run's process group is ended (is /proc mounted, with hidepid perhaps?)",
        ),
    )
    for works, name, with_it, without in features:
        if works():
            yield ok(name, with_it)
        else:
            yield warn(
                name, f"missing: {without}", "a newer kernel, or fewer restrictions (seccomp, mount options)"
            )
    present, own = cgroup.cgroup2()
    if own is not None:
        yield ok("cgroup v2", f"{own} is writable: each run gets one of its own")
    else:
        how = "none of our own to write to" if present else "not on this host"
        yield ok("cgroup v2", f"{how}: the processes of a run are found by mark and group instead")


# ── extras ────────────────────────────────────────────────────────────────────────────────────


def extras(paths: Paths, config: Config | None) -> Iterator[Finding]:
    """See whether what the configuration asks for is installed."""
    if config is None:
        return
    wanted = [
        ("apprise", "notify", "[notify] of kind apprise")
        for n in config.notify.values()
        if n.kind == "apprise"
    ]
    for module, extra, what in dict.fromkeys(wanted):
        if find_spec(module) is None:
            yield bad(
                "extras",
                f"{what} needs {module}, which is not installed",
                f"pip install 'echosched[{extra}]'",
            )
        else:
            yield ok("extras", f"{module} is installed, for {what}")


CHECKS = (detaching, locks, clocks, zones, limits, kernel, extras)

"""Fixtures of the packaging tests: the packages, and systems to install them on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab

NEXT_VERSION = "0.1.0+next"


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip where no system can be booted; in CI that is a failure, not a skip."""
    if why := lab.missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI runs these tests as root with everything installed, but {why}")
        pytest.skip(why)


@pytest.fixture(scope="session")
def build_root(bootable: None) -> Iterator[lab.Chroot]:
    """A root with the build tools, the linters and the shells, not booted."""
    with lab.overlay(lab.root("build")) as place:
        yield lab.Chroot(place)


@pytest.fixture(scope="session")
def packages(build_root: lab.Chroot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what dpkg-buildpackage made, without a network and not as root.

    ECHOSCHED_TEST_PACKAGES names a directory with packages to test instead.
    """
    if made := os.environ.get("ECHOSCHED_TEST_PACKAGES"):
        return Path(made)
    home = build_root.place / "build"
    home.mkdir()
    lab.source_tree(home / "echosched")
    build_root.run(
        "chown -R nobody /build; cd /build/echosched;"
        " setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/build/home"
        " dpkg-buildpackage --no-sign > /build/build.log 2>&1 || { tail -n 100 /build/build.log; exit 1; }",
        timeout=1500,
    )
    target = tmp_path_factory.mktemp("packages")
    for file in home.iterdir():
        if file.is_file():
            shutil.copy2(file, target / file.name)
    return target


@pytest.fixture(scope="session")
def debs(packages: Path) -> list[Path]:
    """The two binary packages."""
    return sorted(packages.glob("*.deb"))


@pytest.fixture(scope="session")
def newer_debs(debs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same two, one version on."""
    target = tmp_path_factory.mktemp("newer")
    return [lab.bumped(deb, NEXT_VERSION, target) for deb in debs]


class Box:
    """A machine with the packages on it."""

    def __init__(self, machine: lab.Machine) -> None:
        self.machine = machine
        self.kind = machine.kind
        self.run, self.out, self.code, self.until = machine.run, machine.out, machine.code, machine.until

    def install(self, debs: list[Path]) -> lab.Completed:
        """Install packages as an administrator would who has no network."""
        for deb in debs:
            shutil.copy(deb, self.machine.place / "root" / deb.name)
        names = " ".join(f"/root/{deb.name}" for deb in debs)
        done = self.run(f"apt-get install -y --no-install-recommends {names}", timeout=600)
        self.run(f"rm {names}")
        return done

    def job(self, name: str, **keys: Any) -> None:
        """Put a job into a drop-in of its own and have the daemon read it."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        self.machine.write(f"/etc/echosched/jobs.d/{name}.toml", f"[job.{name}]\n" + "\n".join(lines) + "\n")
        self.run("echoschedd reload")

    def no_jobs(self) -> None:
        """Take all drop-ins away."""
        self.run("rm -f /etc/echosched/jobs.d/*.toml; echoschedd reload")

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says."""
        found: dict[str, Any] = json.loads(self.run("echoschedd status --json", check=False).out)
        return found

    def history(self, job: str) -> list[dict[str, Any]]:
        """Return the runs of a job, newest first."""
        found: list[dict[str, Any]] = json.loads(self.out(f"echoschedd history {job} --json -n 500"))
        return found

    def outcome(self, job: str) -> dict[str, Any]:
        """Wait until the only run of a job has ended, and return it."""
        self.until(lambda: self.settled(job), what=f"the end of {job}")
        return self.history(job)[0]

    def settled(self, job: str) -> bool:
        """Tell whether a job has run and none of its runs is active."""
        runs = self.history(job)
        return bool(runs) and all(run["state"] not in ("queued", "running") for run in runs)

    def wait_ok(self) -> dict[str, Any]:
        """Wait until the daemon is well, and return its status."""
        self.until(lambda: self.status()["health"] == "ok", what="health ok")
        return self.status()

    def service(self, verb: str) -> int:
        """Return the exit code of ``service echosched VERB``."""
        return self.code(f"service echosched {verb}")

    def alive(self, pid: int) -> bool:
        """Tell whether a process of the machine lives (a zombie does not)."""
        return (
            self.code(f"grep -qv 'State:.Z' /proc/{pid}/status && ! grep -q 'State:.Z' /proc/{pid}/status")
            == 0
        )

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


@pytest.fixture(scope="module")
def box(request: pytest.FixtureRequest, debs: list[Path]) -> Iterator[Box]:
    """A booted machine, of the kind that the module asks for, with the packages installed."""
    with lab.machine(request.param) as machine:
        installed = Box(machine)
        installed.install(debs)
        yield installed

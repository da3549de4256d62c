"""Debian systems to test on: roots made by mmdebstrap, booted by systemd-nspawn on a throw-away overlay.

A root is made once and kept below ``ECHOSCHED_TEST_CACHE`` (default ``~/.cache/echosched-tests``), named after a
digest of its recipe. Its packages come from where this host's apt gets Debian's. It holds everything that the
EchoSched packages depend on, so that installing them needs no network; the machines have none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "dpkg-deb": "dpkg",
    "git": "git",
}
RUNTIME = (
    "adduser init-system-helpers logrotate procps util-linux sysvinit-utils lsb-base python3 python3-daemon "
    "python3-lockfile python3-psutil python3-docopt python3-aiohttp python3-prometheus-client tzdata"
).split()
RECIPES: dict[str, list[str]] = {
    "systemd": [*RUNTIME, *"systemd systemd-sysv libpam-systemd dbus dbus-user-session polkitd sudo".split()],
    "sysv": [*RUNTIME, *"sysvinit-core sysv-rc insserv initscripts startpar".split()],
    # Build-Depends are added from debian/control.
    # What only tests need: linters, shells, a supervisor to run under, a reader of YAML.
    "build": [
        *RUNTIME,
        *"build-essential fakeroot iproute2 lintian mandoc bash zsh fish systemd shellcheck supervisor".split(),
        *"python3-yaml man-db".split(),
    ],
}
RECIPE_VERSION = 1
PATIENCE_SECONDS = 180
"""How long a command, or a change that a test waits for, may take: what hangs takes longer on any machine."""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def missing() -> str:
    """Return why no system can be booted here, or an empty string."""
    if os.geteuid() != 0:
        return "booting Debian systems needs root"
    absent = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if not Path(KEYRING).exists():
        absent.append("debian-archive-keyring")
    return f"not installed: {' '.join(absent)}" if absent else ""


def cache() -> Path:
    """Return the directory that keeps roots between test runs."""
    path = Path(os.environ.get("ECHOSCHED_TEST_CACHE") or "~/.cache/echosched-tests").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def debian_sources() -> list[str]:
    """Return sources.list lines for Debian's own archive, from what this host's apt is set up with."""
    wanted = f"deb [signed-by={KEYRING}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages", "Origin: Debian"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    if not lines:  # apt knows an archive's origin only from its downloaded lists
        subprocess.run(["apt-get", "update", "-qq", "-o", "Acquire::Retries=5"], check=True)
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(set(lines))


def build_depends() -> list[str]:
    """Return the packages that debian/control wants for building (alternatives: the first)."""
    control = (SOURCE / "debian/control").read_text()
    field = re.search(r"^Build-Depends:(.*?)^\S", control, re.MULTILINE | re.DOTALL)
    assert field is not None
    names = [re.split(r"[\s(|<]", item.strip())[0] for item in field[1].split(",") if item.strip()]
    return [name if name != "debhelper-compat" else "debhelper" for name in names]


def root(kind: str) -> Path:
    """Return the directory of a pristine root; made now if it is not there yet."""
    packages = sorted({*RECIPES[kind], *(build_depends() if kind == "build" else [])})
    digest = hashlib.sha256(f"{RECIPE_VERSION} {' '.join(packages)}".encode()).hexdigest()[:12]
    place = cache() / f"root-{kind}-{digest}"
    with (cache() / f"root-{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            for old in cache().glob(f"root-{kind}-*"):
                shutil.rmtree(old)
            _make_root(place, packages)
    return place


def _make_root(place: Path, packages: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".list") as sources:
        sources.write("\n".join(debian_sources()) + "\n")
        sources.flush()
        fresh = place.with_name(place.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        codename = re.search(r"(\w+) main$", debian_sources()[0])
        assert codename is not None
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={','.join(packages)}"]
        command += ["--aptopt=Apt::Install-Recommends false", "--dpkgopt=force-unsafe-io"]
        command += ['--aptopt=Acquire::Retries "5"']  # a mirror may fail to answer once
        command += [
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-include=/usr/share/doc/echosched*",
        ]
        done = subprocess.run(
            [*command, codename[1], str(fresh), sources.name], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"mmdebstrap failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    # No service is started by a package before the machine is booted, and a booted one gets an identity of its own.
    (fresh / "etc/machine-id").write_text("")
    (fresh / "etc/hostname").write_text("testhost\n")
    fresh.rename(place)


@contextmanager
def overlay(lower: Path) -> Iterator[Path]:
    """Mount a writable copy of *lower* that is thrown away at the end."""
    scratch = Path(tempfile.mkdtemp(prefix="machine-", dir=cache()))
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    options = f"lowerdir={lower},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(scratch / "root")], check=True)
    try:
        yield scratch / "root"
    finally:
        _unmount(scratch / "root")
        shutil.rmtree(scratch, ignore_errors=True)


def _unmount(place: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", str(place)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


class Completed:
    """What a command in a machine came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def finish(argv: list[str], *, check: bool, timeout: float, text: str | None = None) -> Completed:
    """Run *argv* with a clean environment; with *check*, a code other than 0 is an AssertionError with all output."""
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, input=text)
    result = Completed(done.returncode, done.stdout, done.stderr)
    assert not check or done.returncode == 0, f"{shlex.join(argv[-3:])}: {result!r}"
    return result


class Chroot:
    """A root that is not booted, with a /proc and its own PID and network namespaces."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def run(self, script: str, *, check: bool = True, timeout: float = PATIENCE_SECONDS) -> Completed:
        """Run a shell script in the root; it and all its children end with it."""
        inner = f"mount -t proc proc /proc; ip link set lo up 2>/dev/null; exec sh -ec {shlex.quote(script)}"
        argv = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--"]
        argv += ["chroot", str(self.place), "/bin/sh", "-c", inner]
        return finish(argv, check=check, timeout=timeout)


class Container:
    """A command as process 1 of PID, mount, IPC, host-name and network namespaces of its own, on a read-only root.

    /data and /tmp are small tmpfs; nothing else can be written. *user* is whose rights it has.
    """

    def __init__(
        self,
        place: Path,
        argv: list[str],
        *,
        user: str,
        environment: dict[str, str],
        prepare: str = "true",
        redirect: str = "</dev/null",
        data_size: str = "8m",
    ) -> None:
        root = shlex.quote(str(place))
        words = [f"{name}={value}" for name, value in environment.items()]
        program = shlex.join(["env", "-i", f"PATH={ENVIRONMENT['PATH']}", *words, *argv])
        setup = f"""
            set -e
            mount --bind {root} {root}; cd {root}
            mount -o remount,bind,ro {root}
            mount -t proc proc proc; mount -t tmpfs -o mode=1777,size=8m tmp tmp
            mount -t tmpfs -o mode=755,size=64k dev dev
            for node in null:3 zero:5 full:7 random:8 urandom:9; do
                mknod -m 666 dev/${{node%:*}} c 1 ${{node#*:}}
            done
            mount -t tmpfs -o mode=750,size={data_size} data data
            mount -t tmpfs -o mode=755 config config
            {prepare}
            chroot . chown -R {user}: /data
            ip link set lo up
            exec chroot --userspec={user}:{user} . {program} {redirect}
        """
        kinds = ["--mount", "--pid", "--ipc", "--uts", "--net"]
        self.place = place
        accounts = (place / "etc/passwd").read_text().splitlines()
        self.uid = next(line.split(":")[2] for line in accounts if line.startswith(f"{user}:"))
        self.log = place.parent / f"container-{id(self)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", *kinds, "--fork", "--kill-child", "sh", "-c", setup],
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )

    @property
    def leader(self) -> int:
        """Return the pid of the container's process 1 as this host sees it; 0 before it has its root, and after."""
        if self.process.poll() is not None:
            return 0
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children or not os.path.samefile(f"/proc/{children[0]}/root", self.place):
            return 0
        # Still root, or already the user: chroot changes that last.
        return int(children[0]) if _ids(int(children[0]))[1] == self.uid else 0

    def run(self, script: str, *, check: bool = True, timeout: float = PATIENCE_SECONDS) -> Completed:
        """Run a shell script in the container with the rights and the environment of its process 1."""
        leader = self.leader
        if not leader:
            return Completed(-1, "", "the container is not up")
        variables = Path(f"/proc/{leader}/environ").read_text().split("\0")
        argv = [*_entering(leader), *_ids(leader)]
        return finish(
            [*argv, "env", "-i", *filter(None, variables), "sh", "-c", script], check=check, timeout=timeout
        )

    def until(self, condition: Callable[[], bool], timeout: float = PATIENCE_SECONDS, what: str = "") -> None:
        """Wait until *condition* is true."""
        deadline = time.monotonic() + timeout
        while not condition():
            said = self.log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{said}"
            time.sleep(0.1)

    def end(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Send TERM to process 1, as a container runtime does, and return its exit code."""
        os.kill(self.leader, signal.SIGTERM)
        return self.process.wait(timeout=timeout)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            # Process 1 itself: --kill-child does not reach it once it has changed its user. The namespaces,
            # and all in them, go with it.
            for child in (
                Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ):
                os.kill(int(child), signal.SIGKILL)
            self.process.kill()
        self.process.wait()


def _entering(pid: int) -> list[str]:
    """Return the command that runs another one where the process *pid* is."""
    return ["nsenter", "--target", str(pid), *"--mount --uts --ipc --net --pid --root --wd".split()]


def _ids(pid: int) -> list[str]:
    """Return nsenter's options for the user and group of a process."""
    fields = dict(line.split(":", 1) for line in _status(pid))
    return ["--setuid", fields["Uid"].split()[1], "--setgid", fields["Gid"].split()[1]]


class Machine:
    """A booted Debian system in namespaces and control groups of its own, without a network."""

    def __init__(self, place: Path, kind: str) -> None:
        self.place, self.kind = place, kind
        self.nspawn: subprocess.Popen[bytes] | None = None
        self.console = place.parent / "console.log"
        self.groups = _own_groups(f"echosched-test-{place.parent.name}")

    def boot(self) -> None:
        """Boot and wait until the system is up."""
        # The machine's name must stay the same over a reboot: the host name is part of some paths.
        argv = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]
        argv += [f"--directory={self.place}", "--machine=testhost", "--console=pipe", "--link-journal=no"]
        # Nothing in there may set the one clock that all systems share.
        argv += ["--drop-capability=CAP_SYS_TIME", "--resolv-conf=off", "--timezone=off"]
        with self.console.open("ab") as log:
            self.nspawn = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._join_groups,
                env=ENVIRONMENT,
            )
        if self.kind == "systemd":
            ready = "systemctl is-system-running | grep -qE 'running|degraded'"
        else:
            ready = "test -e /run/utmp && runlevel | grep -q ' 2' && ! pgrep -x rc >/dev/null && ! pgrep -x startpar"
        self.until(ready)

    def _join_groups(self) -> None:
        for group in self.groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def leader(self) -> int:
        """Return the pid, as this host sees it, of the machine's first process; 0 if there is none."""
        if self.nspawn is None or self.nspawn.poll() is not None:
            return 0
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        for child in children:
            if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in _status(int(child))):
                return int(child)
        return 0

    def run(
        self,
        script: str,
        *,
        check: bool = True,
        timeout: float = PATIENCE_SECONDS,
        text: str | None = None,
    ) -> Completed:
        """Run a shell script in the machine as root and return what it came to."""
        leader = self.leader
        if not leader:
            return Completed(-1, "", "the machine is not up")
        return finish([*_entering(leader), "/bin/sh", "-c", script], check=check, timeout=timeout, text=text)

    def code(self, script: str) -> int:
        """Return the exit code of a shell script in the machine."""
        return self.run(script, check=False).code

    def out(self, script: str) -> str:
        """Return what a shell script in the machine prints, stripped."""
        return self.run(script).out.strip()

    def until(
        self, condition: str | Callable[[], bool], timeout: float = PATIENCE_SECONDS, what: str = ""
    ) -> None:
        """Wait until a shell condition in the machine, or a callable, is true."""
        deadline = time.monotonic() + timeout
        while True:
            if callable(condition):
                if condition():
                    return
                last = ""
            else:
                done = self.run(condition, check=False)
                if done.code == 0:
                    return
                last = repr(done)
            if time.monotonic() > deadline:
                tail = self.console.read_text(errors="replace")[-1500:] if self.console.exists() else ""
                raise AssertionError(
                    f"not within {timeout} s: {what or condition}\n{last}\n--- console\n{tail}"
                )
            time.sleep(0.2)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine (not below /run or /tmp, which the machine mounts over)."""
        place = self.place / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def power_off(self) -> None:
        """Shut the system down in order and wait for its end."""
        assert self.nspawn is not None
        self.run("systemctl poweroff" if self.kind == "systemd" else "shutdown -h now", check=False)
        self.nspawn.wait(timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        """End the machine, whatever state it is in."""
        if self.nspawn is not None and self.nspawn.poll() is None:
            leader = self.leader
            if leader:
                os.kill(leader, signal.SIGKILL)  # the whole PID namespace goes with it
            try:
                self.nspawn.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait()
        for group in self.groups:
            for directory, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []


def _own_groups(name: str) -> list[Path]:
    """Make control groups of the machine's own in the hierarchies that systemd uses, and return them."""
    top = Path("/sys/fs/cgroup")
    tops = [top] if (top / "cgroup.procs").exists() else [top / "systemd", top / "unified"]
    groups = [place / name for place in tops if (place / "cgroup.procs").exists()]
    for group in groups:
        group.mkdir(exist_ok=True)
    return groups


@contextmanager
def machine(kind: str) -> Iterator[Machine]:
    """Boot a fresh system with that init and end it afterwards."""
    with overlay(root(kind)) as place:
        system = Machine(place, kind)
        try:
            system.boot()
            yield system
        finally:
            system.close()


# ── packages ──────────────────────────────────────────────────────────────────────────────────


def source_tree(target: Path) -> None:
    """Copy what git knows (and what it would add) to *target*."""
    command = ["git", "-C", str(SOURCE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")
    for name in sorted({os.fsdecode(name) for name in names if name}):
        if (SOURCE / name).is_symlink() or (SOURCE / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, target / name, follow_symlinks=False)


def bumped(deb: Path, version: str, target: Path) -> Path:
    """Return a copy of a binary package that differs in its version only (also in what the program calls itself)."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
        control = tree / "DEBIAN/control"
        text = control.read_text()
        old = re.search(r"^Version: (.*)$", text, re.MULTILINE)
        assert old is not None
        control.write_text(text.replace(old[1], version))
        for module in tree.glob("usr/lib/python3/dist-packages/echosched/version.py"):
            module.write_text(module.read_text().replace(f'"{old[1]}"', f'"{version}"'))
            sums = tree / "DEBIAN/md5sums"
            sums.write_text(
                "\n".join(s for s in sums.read_text().splitlines() if "version.py" not in s) + "\n"
            )
        made = target / deb.name.replace(old[1], version)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return made

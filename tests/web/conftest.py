"""Real processes: a scheduler started by the command line, the web server beside it, Chromium in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "artefacts"
KEY = "a-key-that-the-operator-chose"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",  # containers often have a small one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What would make this host look like one that ends detached processes, or lead to another instance.
HOSTILE = ("REPL", "ECHOSCHED", "NOTIFY_SOCKET", "SUPERVISOR", "DASHBOARD")
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask our own servers directly, also on a machine whose way out is a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(name="until")
def until_() -> Callable[..., Any]:
    """Wait for something to become true."""
    return until


def until(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS, what: str = "it") -> Any:
    """Return the first true answer; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := true():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.05)


@pytest.fixture
def aside() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end in a thread: playwright has a loop of its own in this one."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()

    return run


class Instance:
    """One scheduler and one web server in a directory of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = ""
        self.said: list[str] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(HOSTILE)}
        self.environ["PYTHONPATH"] = str(ROOT)
        self.environ["DASHBOARD_KEY"] = KEY

    def configure(self, text: str) -> None:
        (self.home / "echosched.toml").write_text(text)

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "echosched.cli", *words, "--home", str(self.home)]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=90)
        if check and done.returncode != 0:
            raise AssertionError(f"{words}: exit code {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def status(self) -> dict[str, Any]:
        return json.loads(self.cli("status", "--json", check=False).stdout)

    def serve(self, port: int = 0) -> None:
        """Start the web server as an operator does and wait until it has named its address."""
        command = [
            sys.executable,
            "-m",
            "echosched.cli",
            "web",
            "--home",
            str(self.home),
            "--port",
            str(port),
        ]
        told = self.home / "web.out"
        with open(told, "w") as out, open(self.home / "web.err", "a") as errors:
            self.server = subprocess.Popen(command, env=self.environ, stdout=out, stderr=errors)

        def named() -> bool:
            if self.server is not None and self.server.poll() is not None:
                raise AssertionError(f"no web server: {(self.home / 'web.err').read_text()}")
            self.said = told.read_text().splitlines()
            return any(line.startswith("key:") for line in self.said)

        until(named, what="the web server's start")
        address = next(line for line in self.said if line.startswith("dashboard:"))
        self.url = address.removeprefix("dashboard:").strip().removesuffix("/dashboard")

    def unserve(self) -> None:
        if self.server is not None:
            self.server.terminate()
            try:
                self.server.wait(40)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None

    def ask(self, method: str, path: str, key: str | None = KEY, timeout: float = 60) -> tuple[int, Any]:
        """Make one call; answer the HTTP status and the JSON."""
        headers = {} if key is None else {"X-Dash-Key": key}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def get(self, path: str) -> Any:
        status, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer

    def post(self, path: str) -> Any:
        status, answer = self.ask("POST", path)
        assert status == 200, answer
        return answer

    def ended(self, run: int) -> dict[str, Any]:
        """Return run *run* once it has its outcome."""

        def outcome() -> dict[str, Any] | None:
            row = self.get(f"/api/runs/{run}")["data"]
            return None if row["state"] in ("queued", "running") else row

        found: dict[str, Any] = until(outcome, what=f"the end of run {run}")
        return found

    def close(self) -> None:
        self.unserve()
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.cli("stop", "--force")


JOBS = '''
timezone = "UTC"
[daemon]
grace = "1s"
[job.hello]
description = "Says hello"
schedule = "0 0 1 1 *"
command = "echo hello; echo world"
[job.backup]
description = "Dump the database to the vault"
schedule = "0 0 1 1 *"
command = "echo dumping; echo 'pg_dump: error: connection refused' >&2; exit 2"
[job.counter]
description = "Counts to four, then waits for the file go"
schedule = "0 0 1 1 *"
command = """
for i in 1 2 3 4; do echo line $i; done
for i in $(seq 2400); do [ -e HOME/go ] && break; sleep 0.05; done
echo line 5
"""
[job.sleeper]
schedule = "0 0 1 1 *"
command = "echo asleep; sleep 300"
[job.evil]
description = "<b>bold</b><img src=x onerror=alert(1)>"
schedule = "0 0 1 1 *"
command = "printf '<script>document.title=\\"owned\\"</script>\\\\n\\\\033[31mred\\\\n'"
[job.brief]
schedule = "0 8 1 1 *"
builtin = "brief"
[job.report]
schedule = "0 8 1 1 *"
builtin = "report"
[job.selfheal]
schedule = "0 8 1 1 *"
builtin = "selfheal"
'''


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path has room for 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="es-web-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def instance(home: Path) -> Iterator[Instance]:
    """An instance with jobs, nothing of it started."""
    instance = Instance(home)
    instance.configure(JOBS.replace("HOME", str(home)))
    yield instance
    instance.close()


@pytest.fixture
def served(instance: Instance) -> Instance:
    """Scheduler and web server, both running."""
    instance.cli("start")
    instance.serve()
    return instance


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One Chromium for the session."""
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed (pip install echosched[dev])"
    if CHROMIUM is None:
        missing = "no Chromium on this machine (apt-get install chromium)"
    if missing is not None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"browser tests: {missing}")
        pytest.skip(f"browser tests: {missing}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, headless=True, timeout=120_000
        )
        yield browser
        browser.close()


class Eyes:
    """Opens pages and notes everything that a page complains of."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.contexts: list[Any] = []

    def open(
        self,
        instance: Instance,
        where: str = "",
        *,
        key: str | None = KEY,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        clock: bool = False,
    ) -> Any:
        """Open a page; with *clock* its time can be moved on, and else goes on as ever."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.contexts.append(context)
        if clock:
            context.clock.install()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._heard)
        if key is not None:
            keep = f"sessionStorage.setItem('echosched.key', {json.dumps(key)})"
            page.add_init_script(f"if (!sessionStorage.getItem('echosched.key')) {keep}")
        page.goto(f"{instance.url}/dashboard{where}")
        return page

    def _heard(self, message: Any) -> None:
        # Refusals by the server are part of the tests; what the page's own code or policy says is not.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def eyes(chromium: Any) -> Iterator[Eyes]:
    eyes = Eyes(chromium)
    yield eyes
    eyes.close()
    assert eyes.complaints == []


@pytest.fixture
def kill() -> Callable[[int], None]:
    """Kill a process that a test has started (a daemon's supervisor or worker)."""

    def strike(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    return strike

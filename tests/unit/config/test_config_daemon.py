"""The launcher's quick look at [daemon]."""

from __future__ import annotations

import pwd
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from echosched.config.daemon_settings import DaemonConfig, read_daemon_settings
from echosched.config.load import load
from echosched.config.paths import Paths, resolve_paths
from echosched.errors import ConfigError

EVERYTHING = """
[daemon]
tick = "5s"
grace = 20
watchdog = "0"
max_concurrent = 3
max_restarts = 1
restart_window = "1h"
user = "nobody"
group = "tty"
umask = "077"
working_directory = "/srv"
chroot = "/jail"
core_dumps = true
control_group = "tty"
crontabs = ["a", { path = "b", system = true }]
log_max_size = "1MiB"
log_keep = 2
start_wait = "5s"
"""


def home(tmp_path: Path, text: str) -> Paths:
    (tmp_path / "echosched.toml").write_text(text)
    return resolve_paths(str(tmp_path), environ={})


def test_every_setting_arrives(tmp_path: Path) -> None:
    settings = read_daemon_settings(home(tmp_path, EVERYTHING), environ={})
    assert settings == DaemonConfig(
        tick=timedelta(seconds=5),
        grace=timedelta(seconds=20),
        watchdog=None,
        max_concurrent=3,
        max_restarts=1,
        restart_window=timedelta(hours=1),
        user="nobody",
        group="tty",
        umask=0o077,
        working_directory="/srv",
        chroot="/jail",
        core_dumps=True,
        control_group="tty",
        crontabs=(("a", None), ("b", True)),
        log_max_size=2**20,
        log_keep=2,
        start_wait=timedelta(seconds=5),
    )
    assert settings != DaemonConfig()


@pytest.mark.parametrize(
    "text", ["", "[job.a]\nbuiltin = 'brief'\n", "# [daemon]\n[daemon]\n", "\ufeff[daemon]\n"]
)
def test_without_settings_the_defaults_hold(tmp_path: Path, text: str) -> None:
    assert read_daemon_settings(home(tmp_path, text), environ={}) == DaemonConfig()


def test_the_quick_look_and_the_whole_reading_agree(tmp_path: Path) -> None:
    paths = home(tmp_path, EVERYTHING.replace('"a", { path = "b", system = true }', ""))
    assert (
        read_daemon_settings(paths, environ={})
        == load(paths=paths, environ={}, uid=pwd.getpwnam("nobody").pw_uid).daemon
    )


def test_settings_cannot_be_changed() -> None:
    settings = DaemonConfig(tick=None)
    with pytest.raises(AttributeError, match="read-only"):
        settings.tick = timedelta(1)
    with pytest.raises(AttributeError, match="read-only"):
        del settings.tick
    with pytest.raises(TypeError, match="tock: unknown"):
        DaemonConfig(tock=1)
    assert hash(settings) == hash(DaemonConfig(tick=None))
    assert "tick=None" in repr(settings)


def test_a_wrong_setting_brings_all_problems_of_all_files(tmp_path: Path) -> None:
    paths = home(tmp_path, "[daemon]\ntick = 'x'\n[job.a]\nschedule = '99 * * * *'\n")
    with pytest.raises(ConfigError) as caught:
        read_daemon_settings(paths, environ={})
    assert [line.split(": ")[1] for line in caught.value.problems] == [
        "daemon.tick",
        "job.a",
        "job.a.schedule",
    ]


def test_a_missing_file_and_broken_toml_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_daemon_settings(resolve_paths(str(tmp_path), environ={}), environ={})
    with pytest.raises(ConfigError, match=r"echosched\.toml:1:8: "):
        read_daemon_settings(home(tmp_path, "[daemon\n"), environ={})


def test_wrong_jobs_are_left_to_the_worker(tmp_path: Path) -> None:
    paths = home(tmp_path, "[daemon]\ntick = '1s'\n[job.a]\nschedule = '99 * * * *'\n")
    assert read_daemon_settings(paths, environ={}).tick == timedelta(seconds=1)


def test_the_launcher_imports_no_schedules_for_it(tmp_path: Path) -> None:
    home(tmp_path, "[daemon]\ntick = '1s'\n")
    program = (
        "import sys; from echosched.config.paths import resolve_paths;"
        "from echosched.config.daemon_settings import read_daemon_settings;"
        f"read_daemon_settings(resolve_paths({str(tmp_path)!r}));"
        "print([m for m in ('echosched.schedule.parse', 'echosched.schedule.zones', 'echosched.model', 'dataclasses',"
        " 'asyncio', 'json', 'logging') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

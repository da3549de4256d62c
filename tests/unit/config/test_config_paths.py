"""Where everything lies."""

from __future__ import annotations

import os
import pickle
import pwd
import subprocess
import sys

import pytest

from echosched.config.paths import Paths, resolve_paths
from echosched.errors import ConfigError


def test_a_home_holds_everything() -> None:
    paths = resolve_paths("/srv/echo", environ={}, uid=0)
    assert paths.mode == "home"
    assert paths.as_dict() == {
        "config": "/srv/echo/echosched.toml",
        "drop_ins": "/srv/echo/jobs.d",
        "pidfile": "/srv/echo/echosched.pid",
        "socket": "/srv/echo/echosched.sock",
        "state": "/srv/echo/echosched.state.json",
        "beat": "/srv/echo/echosched.beat",
        "db": "/srv/echo/echosched.db",
        "db_lock": "/srv/echo/echosched.db.lock",
        "log": "/srv/echo/echosched.log",
        "out": "/srv/echo/echosched.out",
        "runs": "/srv/echo/runs",
        "reports": "/srv/echo/reports",
        "web_key": "/srv/echo/web.key",
    }


def test_root_gets_the_fhs_places() -> None:
    paths = resolve_paths(environ={"HOME": "/root", "XDG_STATE_HOME": "/nowhere"}, uid=0)
    assert paths.mode == "root"
    assert paths.config == "/etc/echosched/echosched.toml"
    assert paths.drop_ins == "/etc/echosched/jobs.d"
    assert paths.pidfile == "/run/echosched/echosched.pid"
    assert paths.socket == "/run/echosched/echosched.sock"
    assert paths.db == "/var/lib/echosched/echosched.db"
    assert paths.log == "/var/log/echosched/echosched.log"
    assert paths.out == "/var/log/echosched/echosched.out"
    assert paths.web_key == "/var/lib/echosched/web.key"


def test_a_user_gets_the_xdg_places() -> None:
    environ = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/4242", "XDG_CONFIG_HOME": "/cfg"}
    paths = resolve_paths(environ=environ, uid=4242)
    assert paths.mode == "user"
    assert paths.config == "/cfg/echosched/echosched.toml"
    assert paths.pidfile == "/run/user/4242/echosched/echosched.pid"
    assert paths.state == "/home/u/.local/state/echosched/echosched.state.json"
    assert paths.beat == "/home/u/.local/state/echosched/echosched.beat"


def test_without_a_runtime_directory_a_users_pidfile_lies_with_the_state() -> None:
    paths = resolve_paths(environ={"HOME": "/home/u", "XDG_RUNTIME_DIR": ""}, uid=424_242)
    assert paths.pidfile == "/home/u/.local/state/echosched/echosched.pid"


def test_relative_xdg_values_are_ignored() -> None:
    paths = resolve_paths(environ={"HOME": "/home/u", "XDG_CONFIG_HOME": "cfg"}, uid=424_242)
    assert paths.config == "/home/u/.config/echosched/echosched.toml"


def test_without_home_the_account_database_is_asked() -> None:
    me = pwd.getpwuid(os.getuid())
    paths = resolve_paths(environ={"XDG_CONFIG_HOME": "/c"}, uid=me.pw_uid if me.pw_uid else 1)
    assert os.path.isabs(paths.state)


def test_an_unknown_user_without_home_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no home directory is known for user id 424242 \(set HOME"):
        resolve_paths(environ={}, uid=424_242)


def test_a_flag_beats_the_environment_which_beats_the_default() -> None:
    environ = {"ECHOSCHED_HOME": "/e", "ECHOSCHED_DB": "/e/other.db", "ECHOSCHED_LOG": ""}
    assert resolve_paths(environ=environ, uid=0).db == "/e/other.db"
    assert resolve_paths(environ=environ, uid=0).log == "/e/echosched.log"
    both = resolve_paths("/f", db="/f/flag.db", environ=environ, uid=0)
    assert (both.home, both.db, both.db_lock) == ("/f", "/f/flag.db", "/f/flag.db.lock")


def test_drop_ins_lie_beside_the_config_wherever_that_is() -> None:
    assert resolve_paths("/h", config="/etc/x/a.toml", environ={}, uid=0).drop_ins == "/etc/x/jobs.d"


def test_relative_paths_become_absolute(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_paths("h", environ={}, uid=0).pidfile == f"{tmp_path}/h/echosched.pid"


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_a_socket_path_has_room_for_107_bytes(length: int, fits: bool) -> None:
    socket = "/" + "s" * (length - 1)
    if fits:
        assert resolve_paths("/h", socket=socket, environ={}).socket == socket
        return
    with pytest.raises(ConfigError) as caught:
        resolve_paths("/h", socket=socket, environ={})
    assert str(caught.value) == (
        f"socket: {socket}: 108 bytes, but a Unix socket's path has room for 107 (use a shorter --home, or --socket)"
    )


def test_the_socket_limit_counts_bytes_not_characters() -> None:
    with pytest.raises(ConfigError, match="109 bytes"):
        resolve_paths("/h", socket="/" + "ü" * 54, environ={})


@pytest.mark.parametrize("value", ["", "a\0b"])
def test_an_impossible_path_is_refused(value: str) -> None:
    with pytest.raises(ConfigError):
        resolve_paths(value, environ={}, uid=0)


def test_paths_cannot_be_changed_but_copied_and_compared() -> None:
    paths = resolve_paths("/h", environ={})
    with pytest.raises(AttributeError, match="read-only"):
        paths.db = "/x"
    with pytest.raises(AttributeError, match="read-only"):
        del paths.db
    assert pickle.loads(pickle.dumps(paths)) == paths
    assert hash(paths) == hash(resolve_paths("/h", environ={}))
    assert paths != resolve_paths("/i", environ={})
    with pytest.raises(TypeError, match="missing or unknown"):
        Paths("home", "/h", db="/x")


def test_options_name_the_same_instance_again() -> None:
    paths = resolve_paths("/h", log="/var/log/x.log", environ={}, uid=0)
    words = paths.options()
    flags = {words[i].removeprefix("--"): words[i + 1] for i in range(0, len(words), 2)}
    assert resolve_paths(**flags, environ={"ECHOSCHED_DB": "/else.db"}, uid=0) == paths


def test_directories_come_parents_first() -> None:
    found = resolve_paths("/h", environ={}).directories()
    assert found == ["/h", "/h/reports", "/h/runs"]


def test_importing_paths_imports_nothing_heavy() -> None:
    program = (
        "import sys; import echosched; before = set(sys.modules); import echosched.config.paths;"
        "new = set(sys.modules) - before;"
        "print(sorted(new - {'echosched.config', 'echosched.config.paths', 'echosched.errors'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

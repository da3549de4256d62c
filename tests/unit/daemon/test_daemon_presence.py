"""A process without a supervisor is seen like one that has one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from echosched.daemon import lock, statefile
from echosched.daemon.inspect import DEAD_WITH_PIDFILE, NOT_RUNNING, RUNNING, inspect
from echosched.daemon.presence import Presence
from echosched.daemon.settings import Paths, Settings


def settings_in(directory: Path) -> Settings:
    paths = Paths(pidfile=str(directory / "run" / "x.pid"), state=str(directory / "lib" / "x.state.json"))
    return Settings(paths=paths, worker_argv=["x"], version="1.2", mode="foreground")


def taken(settings: Settings) -> Presence:
    presence = Presence.take(settings)
    assert presence is not None
    return presence


def test_it_is_seen_from_outside_for_as_long_as_it_lives(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert inspect(settings.paths)["lsb"] == NOT_RUNNING
    with taken(settings) as presence:
        facts = inspect(settings.paths)
        assert (facts["running"], facts["ready"], facts["health"]) == (True, False, "degraded")
        presence.beat.beat()
        presence.ready()
        facts = inspect(settings.paths)
        assert (facts["lsb"], facts["pid"], facts["worker_pid"]) == (RUNNING, os.getpid(), os.getpid())
        assert (facts["health"], facts["ready"], facts["identified"]) == ("ok", True, True)
        assert (facts["mode"], facts["version"], facts["stopping"]) == ("foreground", "1.2", None)
        presence.stopping("SIGTERM")
        presence.stopping("SIGINT")
        assert inspect(settings.paths)["stopping"]["reason"] == "SIGTERM"
    assert os.listdir(tmp_path / "run") == []
    facts = inspect(settings.paths)
    assert facts["lsb"] == NOT_RUNNING
    assert (facts["last_exit"]["how"], facts["last_exit"]["exit_code"]) == ("clean", 0)


def test_an_error_that_ends_it_is_how_it_ended(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(RuntimeError), taken(settings):
        raise RuntimeError("the loop is gone")
    last = inspect(settings.paths)["last_exit"]
    assert (last["how"], last["exit_code"], last["detail"]) == ("failed", 1, "RuntimeError: the loop is gone")


def test_only_one_has_the_pidfile_and_the_other_touches_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with taken(settings):
        before = statefile.read(settings.paths.state)
        assert Presence.take(settings) is None
        assert statefile.read(settings.paths.state) == before
        assert lock.read_pid(settings.paths.pidfile) == os.getpid()


def test_what_a_killed_one_left_is_taken_over_with_the_verdict_on_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    child = os.fork()
    if child == 0:
        taken(settings).ready()
        os._exit(0)  # as SIGKILL would: no goodbye
    os.waitpid(child, 0)
    assert inspect(settings.paths)["lsb"] == DEAD_WITH_PIDFILE
    with taken(settings):
        facts = inspect(settings.paths)
        assert facts["pid"] == os.getpid()
        assert facts["last_exit"]["how"] == "signal 9"


def test_a_forked_child_on_its_way_out_ends_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with taken(settings) as presence:
        child = os.fork()
        if child == 0:
            presence.end("clean", 0)
            os._exit(0)
        os.waitpid(child, 0)
        assert inspect(settings.paths)["running"]
        assert inspect(settings.paths)["last_exit"] is None


def test_exit_codes_that_an_earlier_daemon_kept_are_kept_until_a_clean_end(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with taken(settings):
        pass
    path = Path(settings.paths.state)
    document = json.loads(path.read_text())
    document["children"] = [["7.1", 4711, 99, 3], ["8.1", 4712, 99, None]]
    path.write_text(json.dumps(document))
    with taken(settings) as presence:
        assert [(child.tag, child.status) for child in presence.children] == [("7.1", 3)]
        assert json.loads(path.read_text())["children"] == [["7.1", 4711, 99, 3]]
    assert json.loads(path.read_text())["children"] == []


def test_bad_times_that_never_ended_stay_known(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with taken(settings) as presence:
        presence.beat.set_degraded(1_000_000)
    assert os.listdir(tmp_path / "run") == ["x.beat"]
    with taken(settings) as presence:
        assert presence.beat.inherited_degraded_micros == 1_000_000


def test_a_directory_that_is_not_ours_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="run"):
        Presence.take(settings_in(tmp_path))


def test_what_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with taken(settings) as presence:
        presence.ready()
        shutil.rmtree(tmp_path / "run")  # as systemd does when the unit stops whose directory it is
        presence.keep()
        assert inspect(settings.paths)["lsb"] == NOT_RUNNING  # nowhere to say it
        (tmp_path / "run").mkdir()
        presence.keep()
        facts = inspect(settings.paths)
        assert (facts["lsb"], facts["health"], facts["pid"]) == (RUNNING, "ok", os.getpid())
    assert os.listdir(tmp_path / "run") == []

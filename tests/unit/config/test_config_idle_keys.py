"""A key that would change nothing about a job is refused where the job itself says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from echosched.config.job_keys import JOB_KEYS, PROCESS_KEYS
from echosched.config.load import load
from echosched.config.settings import Config
from echosched.errors import ConfigError
from echosched.model import DEFAULT_PROCESS

VALUES = {
    "cwd": '"/srv"',
    "env": '{ A = "1" }',
    "env_file": '"/srv/env"',
    "user": '"nobody"',
    "group": '"nogroup"',
    "umask": '"077"',
    "nice": "5",
    "limits": "{ nofile = 64 }",
}
ACTIONS = {
    "http": 'http = "http://127.0.0.1/"',
    "selfheal": 'builtin = "selfheal"',
    "retention": 'builtin = "retention"',
    "brief": 'builtin = "brief"',
    "report": 'builtin = "report"',
}


def read(tmp_path: Path, text: str, *, uid: int = 0) -> Config:
    main = tmp_path / "echosched.toml"
    main.write_text(text)
    main.chmod(0o644)
    return load(str(main), environ={}, uid=uid)


def test_the_table_above_has_every_key_of_a_process() -> None:
    assert VALUES.keys() == PROCESS_KEYS.keys() < JOB_KEYS.keys()


@pytest.mark.parametrize("what", ACTIONS)
@pytest.mark.parametrize("key", VALUES)
def test_a_job_that_runs_nothing_of_the_operators_has_no_surroundings_to_set(
    tmp_path: Path, what: str, key: str
) -> None:
    text = f'[job.x]\nschedule = "@daily"\n{ACTIONS[what]}\n{key} = {VALUES[key]}\n'
    if key == "nice" and what in ("brief", "report"):
        assert read(tmp_path, text).jobs["x"].process.nice == 5
        return
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    kind = ACTIONS[what].partition(" ")[0]
    whose = "it is for jobs with command or python: remove it"
    # One line, also for a user that such a daemon could not take anyway.
    assert caught.value.problems == (
        f"echosched.toml: job.x.{key}: means nothing for a job with {kind} ({whose})",
    )


@pytest.mark.parametrize("action", ['command = "x"', 'python = "a:b"'])
def test_commands_and_functions_take_all_of_them(tmp_path: Path, action: str) -> None:
    keys = "".join(f"{key} = {value}\n" for key, value in VALUES.items())
    process = read(tmp_path, f"[job.x]\nschedule = '@daily'\n{action}\n{keys}").jobs["x"].process
    assert (process.user, process.group, process.nice) == ("nobody", "nogroup", 5)


@pytest.mark.parametrize("what", ACTIONS)
def test_defaults_are_for_the_other_jobs(tmp_path: Path, what: str) -> None:
    keys = "".join(f"{key} = {value}\n" for key, value in VALUES.items() if key != "nice")
    text = f'[defaults]\n{keys}retries = 2\n[job.x]\nschedule = "@daily"\n{ACTIONS[what]}\n'
    plain = read(tmp_path, text.replace(keys, "")).jobs["x"]
    job = read(tmp_path, text).jobs["x"]
    assert job.process == DEFAULT_PROCESS
    assert job.policy.retries == 2
    assert job.definition == plain.definition  # a change that has no effect makes it no other job


def test_a_secret_that_only_other_jobs_would_need_is_not_missed(tmp_path: Path) -> None:
    defaults = '[defaults]\nenv = { TOKEN = "${env:NOWHERE}" }\n'
    job = f'[job.x]\nschedule = "@daily"\n{ACTIONS["http"]}\n'
    assert read(tmp_path, defaults + job).warnings == ()
    other = '[job.y]\nschedule = "@daily"\ncommand = "true"\n'
    (warning,) = read(tmp_path, defaults + job + other).warnings
    assert "job.y" in warning


def test_a_default_user_that_no_job_takes_is_no_error(tmp_path: Path) -> None:
    text = f'[defaults]\nuser = "nobody"\n[job.x]\nschedule = "@daily"\n{ACTIONS["http"]}\n'
    assert read(tmp_path, text, uid=1000).jobs["x"].process == DEFAULT_PROCESS
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text + '[job.y]\nschedule = "@daily"\ncommand = "true"\n', uid=1000)
    assert caught.value.problems == (
        'echosched.toml: defaults.user: "nobody": only a daemon run by root can run jobs as somebody else',
    )

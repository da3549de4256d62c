"""TOML in, Config out, or every problem at once."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.config.load import load
from echosched.config.paths import resolve_paths
from echosched.config.settings import Config
from echosched.errors import ConfigError
from echosched.model import (
    After,
    AfterWhen,
    BuiltinAction,
    Catchup,
    CommandAction,
    HttpAction,
    OnAbandoned,
    Overlap,
    PythonAction,
)

ETC = Path(__file__).parents[3] / "etc"
ME = pwd.getpwuid(os.geteuid()).pw_name


def read(tmp_path: Path, text: str, *, uid: int = 1000, drop_ins: bool = True, **files: str) -> Config:
    main = tmp_path / "echosched.toml"
    main.write_text(text)
    main.chmod(0o644)
    for name, content in files.items():
        (tmp_path / "jobs.d").mkdir(exist_ok=True)
        (tmp_path / "jobs.d" / f"{name}.toml").write_text(content)
    return load(str(main), environ={}, uid=uid, drop_ins=drop_ins)


def problems(tmp_path: Path, text: str, *, uid: int = 1000, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, uid=uid, **files)
    assert caught.value.exit_code == 6
    return list(caught.value.problems)


# ── what is right ─────────────────────────────────────────────────────────────────────────────


def test_an_empty_file_is_a_configuration_without_jobs(tmp_path: Path) -> None:
    config = read(tmp_path, "")
    assert config.jobs == {}
    assert config.timezone == "UTC"
    assert config.daemon.tick == timedelta(seconds=60)
    assert config.daemon.max_concurrent == 64
    assert config.retention.keep == 1000
    assert (config.web.host, config.web.port) == ("127.0.0.1", 5000)
    assert config.warnings == ()
    assert config.sources == (str(tmp_path / "echosched.toml"),)


def test_all_keys_of_a_job_arrive(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [notify.ops]
        kind = "mail"
        to = ["ops@example.com"]
        [job.all]
        description = "Everything"
        enabled = false
        schedule = ["0 8 * * *", "@boot"]
        timezone = "Europe/Berlin"
        dst = "skip"
        except = "2026-12-25"
        after = { job = "other", when = "any" }
        jitter = "5m"
        command = "tool"
        args = ["a", 1, 2.5]
        stdin = "hello"
        shell = "/bin/bash"
        env = { B = "2", A = 1 }
        env_file = "/etc/default/tool"
        cwd = "/srv"
        umask = "022"
        nice = 5
        limits = { nofile = 1024, as = "1GiB", core = "unlimited" }
        timeout = "2h30m"
        kill_after = "1s"
        retries = 3
        retry_delay = 5
        retry_backoff = 1.5
        retry_max_delay = "10m"
        overlap = "queue_all"
        catchup = "all"
        catchup_window = "7d"
        on_abandoned = "retry"
        concurrency_group = { name = "db", limit = 2 }
        priority = -1
        output = false
        output_limit = "1MB"
        success_codes = [0, 2]
        notify = "ops"
        healthcheck = "https://hc.example/x"
        heal = true
        labels = ["gpu", "big"]
        [job.other]
        python = "package.module:main"
        args = [1, "x", { a = true }]
        [job.call]
        http = "https://example.com/"
        [job.post]
        [job.post.http]
        method = "post"
        url = "https://example.com/"
        headers = { A = "1", B = "2" }
        json = { a = [1, "ü"] }
        expect = [200, 204]
        expect_body = "ok|fine"
        follow_redirects = true
        verify = false
        [job.builtin]
        builtin = "selfheal"
        """,
    )
    job = config.jobs["all"]
    assert job.description == "Everything"
    assert not job.enabled
    assert job.schedule is not None
    assert job.schedule.on_start == {"boot"}
    assert job.schedule_text == "0 8 * * *; @boot"
    assert job.timezone == "Europe/Berlin"
    assert job.after == After("other", AfterWhen.ANY)
    assert job.action == CommandAction("tool", ("a", "1", "2.5"), "/bin/bash", "hello", (0, 2))
    process = job.process
    assert process.env == (("A", "1"), ("B", "2"))
    assert (process.env_file, process.cwd, process.umask, process.nice) == (
        "/etc/default/tool",
        "/srv",
        0o022,
        5,
    )
    assert process.limits == (("as", 2**30), ("core", -1), ("nofile", 1024))
    policy = job.policy
    assert policy.timeout == timedelta(hours=2.5)
    assert (policy.kill_after, policy.retry_delay) == (timedelta(seconds=1), timedelta(seconds=5))
    assert (policy.retries, policy.retry_backoff, policy.retry_max_delay) == (3, 1.5, timedelta(minutes=10))
    assert (policy.overlap, policy.catchup) == (Overlap.QUEUE_ALL, Catchup.ALL)
    assert (policy.catchup_window, policy.on_abandoned) == (timedelta(days=7), OnAbandoned.RETRY)
    assert (policy.concurrency_group, policy.concurrency_limit, policy.priority) == ("db", 2, -1)
    assert (policy.output, policy.output_limit) == (False, 1_000_000)
    assert (policy.notify, policy.healthcheck) == (("ops",), "https://hc.example/x")
    assert (policy.heal, policy.labels, policy.jitter) == (True, ("big", "gpu"), timedelta(minutes=5))
    assert config.jobs["other"].action == PythonAction("package.module:main", (1, "x", {"a": True}))
    assert config.jobs["call"].action == HttpAction("https://example.com/")
    assert config.jobs["post"].action == HttpAction(
        "https://example.com/",
        "POST",
        (("A", "1"), ("B", "2")),
        json='{"a": [1, "ü"]}',
        expect=(200, 204),
        expect_body="ok|fine",
        follow_redirects=True,
        verify=False,
    )
    assert config.jobs["builtin"].action == BuiltinAction("selfheal")
    assert config.warnings == (
        "echosched.toml: job.other: nothing starts it: no schedule, no after (only: echoschedd run other)",
        "echosched.toml: job.call: nothing starts it: no schedule, no after (only: echoschedd run call)",
        "echosched.toml: job.post: nothing starts it: no schedule, no after (only: echoschedd run post)",
        "echosched.toml: job.builtin: nothing starts it: no schedule, no after (only: echoschedd run builtin)",
    )


def test_schedules_follow_the_timezone_and_the_exceptions(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        timezone = "Europe/Berlin"
        [job.a]
        schedule = "0 8 * * *"
        except = ["2026-12-25", "2026-12-26"]
        command = "x"
        """,
    )
    schedule = config.jobs["a"].schedule
    assert schedule is not None
    assert schedule.next_after(datetime(2026, 12, 24, 7, tzinfo=UTC)) == datetime(2026, 12, 27, 7, tzinfo=UTC)


def test_after_may_stand_in_schedule(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        job.a = { schedule = "@daily", command = "x" }
        job.b = { schedule = "after a", command = "x" }
        job.c = { after = "b failure", command = "x" }
        """,
    )
    assert config.jobs["b"].after == After("a", AfterWhen.SUCCESS)
    assert config.jobs["b"].schedule is None
    assert config.jobs["c"].after == After("b", AfterWhen.FAILURE)
    assert config.warnings == ()


def test_defaults_are_for_all_jobs_and_environments_are_merged(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [defaults]
        timeout = "0"
        retries = 2
        env = { A = "1", B = "2" }
        args = ["-v"]
        success_codes = [0, 1]
        [job.a]
        command = "x"
        retries = 5
        env = { B = "3" }
        [job.b]
        builtin = "brief"
        """,
    )
    a, b = config.jobs["a"], config.jobs["b"]
    assert (a.policy.timeout, a.policy.retries, b.policy.retries) == (None, 5, 2)
    assert a.process.env == (("A", "1"), ("B", "3"))
    assert a.action == CommandAction("x", ("-v",), success_codes=(0, 1))
    assert b.action == BuiltinAction("brief")


def test_jobs_with_equal_settings_share_them(tmp_path: Path) -> None:
    text = "".join(f'[job.j{n}]\ncommand = "x{n}"\nretries = 3\nenv = {{ A = "1" }}\n' for n in range(3))
    config = read(tmp_path, text, extra='[job.k]\ncommand = "y"\nretries = 3\nenv = { A = "1" }\n')
    assert len({id(job.policy) for job in config.jobs.values()}) == 1
    assert len({id(job.process) for job in config.jobs.values()}) == 1


def test_drop_ins_come_in_the_order_of_their_names_with_defaults_of_their_own(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        '[defaults]\nretries = 1\nnice = 3\n[job.m]\ncommand = "x"\nschedule = "@daily"',
        b='timezone = "Asia/Tokyo"\n[defaults]\nretries = 2\n[job.b]\ncommand = "x"\nschedule = "@daily"',
        a='[job.a]\ncommand = "x"\nschedule = "@daily"\n',
    )
    assert list(config.jobs) == ["m", "a", "b"]
    assert [job.policy.retries for job in config.jobs.values()] == [1, 1, 2]
    assert [job.process.nice for job in config.jobs.values()] == [3, 3, 3]
    assert [job.timezone for job in config.jobs.values()] == ["UTC", "UTC", "Asia/Tokyo"]
    assert config.jobs["b"].source == "jobs.d/b.toml: job.b"
    assert [os.path.basename(path) for path in config.sources] == ["echosched.toml", "a.toml", "b.toml"]


def test_drop_ins_can_be_left_out_and_other_names_are_no_drop_ins(tmp_path: Path) -> None:
    (tmp_path / "jobs.d").mkdir()
    for name in ("a.toml.bak", ".a.toml", "README"):
        (tmp_path / "jobs.d" / name).write_text("nonsense")
    assert read(tmp_path, "").jobs == {}
    assert read(tmp_path, "", drop_ins=False, x="nonsense").jobs == {}


def test_include_takes_files_and_globs_once_each(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.toml").write_text(
        'include = ["b.toml"]\n[job.a]\ncommand = "x"\nschedule="@daily"\n'
    )
    (tmp_path / "more" / "b.toml").write_text(
        'include = ["a.toml"]\n[job.b]\ncommand = "x"\nschedule="@daily"\n'
    )
    config = read(tmp_path, 'include = ["more/a.toml", "more/*.toml", "none/*.toml"]')
    assert sorted(config.jobs) == ["a", "b"]


def test_a_draft_is_judged_as_if_it_were_saved_already(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('[job.a]\ncommand = "x"\nschedule = "@daily"\n')
    main, draft = tmp_path / "echosched.toml", tmp_path / "elsewhere" / "draft.toml"
    draft.parent.mkdir()
    draft.write_text('include = "more.toml"\n')
    assert list(load(str(main), draft=str(draft), environ={}, uid=1000).jobs) == ["a"]
    draft.write_text('include = "more.toml"\n[job.a]\n')
    with pytest.raises(ConfigError) as caught:
        load(str(main), draft=str(draft), environ={}, uid=1000)
    assert caught.value.problems == (
        "echosched.toml: job.a: does nothing: give it a command, http, python or builtin",
        "more.toml: job.a: is defined in echosched.toml too (rename one of them)",
    )
    assert not main.exists()


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert read(tmp_path, '\ufeff[job.a]\nbuiltin = "brief"').jobs["a"].name == "a"


def test_digests_are_stable_and_tell_what_changed(tmp_path: Path) -> None:
    text = '[job.a]\nschedule = "0 8 * * *"\ncommand = "x"\nretries = 1\n'
    first = read(tmp_path, text).jobs["a"]
    assert (first.definition, first.timing) == ("a03a8786a8b58a7d", "da6e998b90ce28d7")
    described = read(tmp_path, text + 'description = "d"').jobs["a"]
    assert (described.definition, described.timing) == (first.definition, first.timing)
    moved = read(tmp_path, text.replace("0 8", "0 9")).jobs["a"]
    assert moved.definition == first.definition
    assert moved.timing != first.timing
    for change in ('timeout = "2h"', "nice = 1", 'args = ["a"]', "output = false"):
        other = read(tmp_path, text + change).jobs["a"]
        assert other.definition != first.definition, change
        assert other.timing == first.timing, change
    for change in ('timezone = "Asia/Tokyo"', 'dst = "skip"', 'except = "2026-12-25"'):
        other = read(tmp_path, text + change).jobs["a"]
        assert other.definition == first.definition, change
        assert other.timing != first.timing, change


def test_other_tables_arrive(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [retention]
        runs = "90d"
        keep = 50
        output = "1d"
        reports = "10d"
        [web]
        host = "0.0.0.0"
        port = 8080
        key_file = "/etc/echosched/key"
        allowed_hosts = ["sched.example.com"]
        [notify.hook]
        kind = "webhook"
        on = ["failure", "recovery"]
        url = "https://hooks.example/x"
        [notify.tube]
        kind = "apprise"
        url = ["tgram://x/y"]
        on = "overdue"
        default = false
        """,
    )
    assert config.retention.runs == timedelta(days=90)
    assert (config.retention.keep, config.retention.output) == (50, timedelta(days=1))
    assert (config.web.host, config.web.port, config.web.allowed_hosts) == (
        "0.0.0.0",
        8080,
        ("sched.example.com",),
    )
    assert config.notify["hook"].on == ("failure", "recovery")
    assert config.notify["hook"].options == {"url": "https://hooks.example/x"}
    assert (config.notify["tube"].on, config.notify["tube"].default) == (("overdue",), False)


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────

JOB = '[job.x]\nschedule = "@daily"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timezon = 'UTC'", 'timezon: unknown key (did you mean "timezone"?)'),
        ("[jobs.x]", 'jobs: unknown table (did you mean "job"?)'),
        ("[zzz]", "zzz: unknown table"),
        (
            "timezone = 'Mars/X'",
            'timezone: "Mars/X": unknown time zone (use a name such as "Europe/Berlin", or "UTC")',
        ),
        (
            "timezone = 'europe/berln'",
            'timezone: "europe/berln": unknown time zone (did you mean "Europe/Berlin"?)',
        ),
        ("timezone = 3", "timezone: 3: must be a string"),
        ("job = 3", "job: 3: must hold tables: [job.NAME]"),
        ("job.x = 3", "job.x: 3: must be a table"),
        ("daemon = true", "daemon: true: must be a table"),
        ("[daemon]\ntick = '60x'", "daemon.tick: \"60x\": unknown unit 'x' (one of us, ms, s, m, h, d, w)"),
        ("[daemon]\ntick = '1ms'", 'daemon.tick: "1ms": must be 1s or more, or "0" for none'),
        ("[daemon]\ngracee = 1", 'daemon.gracee: unknown key (did you mean "grace"?)'),
        ("[daemon]\nmax_concurrent = 0", "daemon.max_concurrent: 0: must be 1–100000"),
        ("[daemon]\nmax_concurrent = 1.5", "daemon.max_concurrent: 1.5: must be a whole number"),
        ("[daemon]\nmax_concurrent = true", "daemon.max_concurrent: true: must be a whole number"),
        ("[daemon]\numask = 9999", 'daemon.umask: 9999: must be file mode bits such as "027" or 0o027'),
        ("[daemon]\nchroot = 'x'", 'daemon.chroot: "x": must be an absolute path'),
        (
            "[daemon]\ncrontabs = [1]",
            "daemon.crontabs: [1]: must be a list of paths, or of tables such as "
            '{ path = "/etc/crontab", system = true }',
        ),
        ("[daemon]\ncrontabs = ['none']", "none: no such file"),
        ("[retention]\nkeep = 0", "retention.keep: 0: must be 1 or more"),
        (
            "[retention]\nruns = '1 month'",
            'retention.runs: "1 month": months and years have no fixed length (use days, or a calendar schedule)',
        ),
        ("[retention]\nruns = '0'", 'retention.runs: "0": must be more than zero'),
        ("[defaults]\ncommand = 'x'", "defaults.command: what a job does cannot be a default"),
        ("[defaults]\ntimeot = 1", 'defaults.timeot: unknown key (did you mean "timeout"?)'),
        ("[web]\nport = 70000", "web.port: 70000: must be 0–65535"),
        (
            "[cluster]",
            'cluster.dsn: missing (the database that all hosts share, such as "postgresql://user@host/database")',
        ),
        ("[notify.x]", "notify.x.kind: missing (must be one of mail, webhook, healthchecks, apprise)"),
        (
            "[notify.x]\nkind = 'mial'",
            'notify.x.kind: "mial": must be one of mail, webhook, healthchecks, apprise (did you mean "mail"?)',
        ),
        ("[notify.x]\nkind = 'mail'", "notify.x.to: missing"),
        ("[notify.x]\nkind = 'mail'\nto = 'a b'", 'notify.x.to: "a b": "a b" is no mail address'),
        (
            "[notify.x]\nkind = 'mail'\nto = 'a'\non = 'fail'",
            'notify.x.on: "fail": must be one of failure, recovery, missed, abandoned, slow, overdue, success, output'
            ' (did you mean "failure"?)',
        ),
        ("include = 'x.toml'", "x.toml: no such file"),
        ("include = 3", "include: 3: must be a string or a list of strings"),
        (JOB, "job.x: does nothing: give it a command, http, python or builtin"),
        (
            JOB + "command='a'\nbuiltin='brief'",
            "job.x: does two things, command and builtin: make it one, or two jobs",
        ),
        (
            JOB + "builtin='self-heal'",
            'job.x.builtin: "self-heal": must be one of brief, report, selfheal, retention (did you mean "selfheal"?)',
        ),
        (JOB + "python='x'", 'job.x.python: "x": must be "module:function"'),
        (JOB + "http='ftp://x'", "job.x.http.url: must begin with http:// or https://"),
        (JOB + "http={}", "job.x.http.url: missing"),
        (JOB + "http={url='http://x',methd='GET'}", 'job.x.http.methd: unknown key (did you mean "method"?)'),
        (JOB + "http={url='http://x',expect=[20]}", "job.x.http.expect: [20]: must be 100–599"),
        (
            JOB + "http={url='http://x',body='a',json={}}",
            "job.x.http.json: a call has one body: give body or json",
        ),
        (
            JOB + "http={url='http://x',expect_body='('}",
            'job.x.http.expect_body: "(": is no regular expression: missing ), unterminated subpattern at position 0',
        ),
        (JOB + "command=''", "job.x.command: must not be empty"),
        (
            JOB + "command=[]",
            "job.x.command: must be a command line, or a list of strings with the program first",
        ),
        (JOB + 'command="a\\u0000b"', "job.x.command: must not hold a NUL character"),
        (JOB + "command='a'\ncomand='b'", 'job.x.comand: unknown key (did you mean "command"?)'),
        (
            JOB + "builtin='brief'\nstdin='x'",
            "job.x.stdin: means nothing for a job with builtin (it is for jobs with command: remove it)",
        ),
        (
            JOB + "command='a'\noverlap='skipp'",
            'job.x.overlap: "skipp": must be one of skip, queue, queue_all, replace, allow (did you mean "skip"?)',
        ),
        (JOB + "command='a'\ncatchup=true", "job.x.catchup: true: must be one of last, none, all"),
        (JOB + "command='a'\nretries=-1", "job.x.retries: -1: must be 0–1000000"),
        (JOB + "command='a'\nretry_backoff=0.5", "job.x.retry_backoff: 0.5: must be 1–1000"),
        (JOB + "command='a'\nretry_backoff=nan", "job.x.retry_backoff: nan: must be 1–1000"),
        (JOB + "command='a'\ntimeout=-1", "job.x.timeout: -1: must not be negative"),
        (
            JOB + "command='a'\ntimeout='200 years'",
            'job.x.timeout: "200 years": months and years have no fixed length (use days, or a calendar schedule)',
        ),
        (JOB + "command='a'\ntimeout='99999d'", 'job.x.timeout: "99999d": is too long (a century at most)'),
        (
            JOB + "command='a'\noutput_limit='ten'",
            'job.x.output_limit: "ten": must be a size such as "10MB", "512KiB" or a number of bytes',
        ),
        (
            JOB + "command='a'\nlimits={nofiles=1}",
            'job.x.limits: {…}: unknown limit "nofiles" (did you mean "nofile"?)',
        ),
        (
            JOB + "command='a'\nlabels=['a b']",
            'job.x.labels: ["a b"]: "a b" is no label (no white space, at most 100 characters)',
        ),
        (JOB + "command='a'\ncwd='x'", 'job.x.cwd: "x": must be an absolute path (or begin with ~)'),
        (
            JOB + "command='a'\nuser='bob'",
            'job.x.user: "bob": only a daemon run by root can run jobs as somebody else',
        ),
        (JOB + "command='a'\ngroup='x y'", 'job.x.group: "x y": is no name for an account'),
        (JOB + "command='a'\nnotify='ops'", 'job.x.notify: "ops": there is no [notify.ops]'),
        (JOB + "command='a'\nafter='y'", 'job.x.after: "y": no such job'),
        (JOB + "command='a'\nafter='x'", 'job.x.after: "x": goes round in a circle: x after x'),
        (
            JOB + "command='a'\nafter={job='y',wen='any'}",
            'job.x.after: {…}: must be a job, or a table such as { job = "brief", when = "success" }',
        ),
        ("[job.x]\ncommand='a'\nexcept='2026-12-25'", "job.x.except: means nothing without a schedule"),
        (
            "[job.x]\ncommand='a'\nschedule='61 * * * *'",
            'job.x.schedule: "61 * * * *": minute must be 0–59, not 61',
        ),
        (
            "[job.x]\ncommand='a'\nschedule=['@daily', '61 * * * *']",
            'job.x.schedule[1]: "61 * * * *": minute must be 0–59, not 61',
        ),
        ("[job.x]\ncommand='a'\nschedule=[]", "job.x.schedule: []: must not be empty"),
        ("[job.x]\ncommand='a'\nschedule=5", "job.x.schedule: 5: must be a string or a list of strings"),
        (
            "[job.x]\ncommand='a'\nschedule='after x y z'",
            'job.x.schedule: "after x y z": must be after JOB, perhaps followed by one of success failure any',
        ),
        (
            '[job."a b"]\ncommand="x"',
            'job."a b": a job\'s name has letters, digits and _ . : @ + -, at most 128,'
            ' and begins with a letter or digit (such as "a-b")',
        ),
    ],
)
def test_a_problem_names_file_key_value_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    place = "" if expected.endswith("no such file") else "echosched.toml: "
    assert problems(tmp_path, text) == [place + expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb c = 2\n", "echosched.toml:2:3: Expected '=' after a key in a key/value pair"),
        ("\n\n[x\n", "echosched.toml:3:3: Expected ']' at the end of a table declaration"),
        ("a = 1\na = 2\n", "echosched.toml:2:6: Cannot overwrite a value"),
        ("\na =", "echosched.toml:2: Invalid value (at the end of the file)"),
        ("a = " + "[" * 50_000, "echosched.toml: is nested too deeply"),
        ("a = " + "9" * 5000, "echosched.toml: holds a value that cannot be"),
    ],
)
def test_broken_toml_gets_line_and_column(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(expected)


def test_text_that_is_not_utf8_gets_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "a.toml"), environ={}, uid=1000)
    assert caught.value.problems == ("a.toml:2: is not UTF-8 text",)


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "[daemon]\ntick = 'x'\n[job.a]\nretries = -1\nschedule = '99 * * * *'\ncommand = 'a'\n",
        b="[job.b]\nbuiltin = 'b'\n",
        c="[job.c\n",
    )
    assert [line.split(": ")[0] + ": " + line.split(": ")[1] for line in found] == [
        "echosched.toml: daemon.tick",
        "echosched.toml: job.a.retries",
        "echosched.toml: job.a.schedule",
        "jobs.d/b.toml: job.b.builtin",
        "jobs.d/c.toml:1:7: Expected ']' at the end of a table declaration",
    ]


def test_a_name_used_twice_names_both_places(tmp_path: Path) -> None:
    text = '[job.a]\ncommand = "x"\nschedule = "@daily"\n'
    assert problems(tmp_path, text, b=text) == [
        "jobs.d/b.toml: job.a: is defined in echosched.toml too (rename one of them)"
    ]


def test_drop_ins_hold_jobs_and_not_the_daemons_settings(tmp_path: Path) -> None:
    assert problems(tmp_path, "", b="[daemon]\ntick = '1s'\n[jbo.x]\n") == [
        "jobs.d/b.toml: daemon: belongs into the main file, echosched.toml",
        'jobs.d/b.toml: jbo: unknown table (did you mean "job"?)',
    ]


def test_a_longer_circle_is_told_once(tmp_path: Path) -> None:
    text = "".join(f'[job.{a}]\ncommand = "x"\nafter = "{b}"\n' for a, b in ("ab", "bc", "ca", "da"))
    assert problems(tmp_path, text) == [
        'echosched.toml: job.a.after: "b": goes round in a circle: a after b after c after a'
    ]


def test_jobs_of_a_group_must_agree_about_its_limit(tmp_path: Path) -> None:
    text = """
    [job.a]
    command = "x"
    concurrency_group = { name = "db", limit = 2 }
    [job.b]
    command = "x"
    concurrency_group = "db"
    """
    assert problems(tmp_path, text) == [
        'echosched.toml: job.b.concurrency_group: "db": has the limit 1 here and 2 for a (one group, one limit)'
    ]


def test_a_missing_file_says_what_to_create(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(paths=resolve_paths(str(tmp_path), environ={}))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(
        f"{tmp_path}/echosched.toml: no such file (create it, with a job such as"
    )
    assert "--config" in caught.value.problems[0]


def test_a_directory_or_a_pipe_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.toml").mkdir()
    os.mkfifo(tmp_path / "p.toml")
    for name, reason in (("d.toml", "is a directory"), ("p.toml", "is not a file")):
        with pytest.raises(ConfigError) as caught:
            load(str(tmp_path / name), environ={}, uid=1000)
        assert caught.value.problems == (f"{name}: {reason}",)


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, 'timezone = "a\\u001b[31m\\nb"')
    assert line.isprintable()


# ── accounts and rights ───────────────────────────────────────────────────────────────────────


def test_a_root_daemon_takes_a_jobs_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("files of this test belong to the user running it, which a root daemon refuses")
    config = read(tmp_path, '[job.a]\ncommand = "x"\nuser = "nobody"\ncwd = "~"\n', uid=0)
    assert config.jobs["a"].process.user == "nobody"
    assert config.jobs["a"].process.cwd == pwd.getpwnam("nobody").pw_dir


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_that_does_not_exist_fails_runs_and_only_warns_here(tmp_path: Path) -> None:
    text = '[job.a]\nschedule = "@daily"\ncommand = "x"\nuser = "n0body"\ngroup = "n0group"\n'
    config = read(tmp_path, text, uid=0)
    assert config.jobs["a"].process.user == "n0body"
    assert config.warnings == (
        'echosched.toml: job.a.user: "n0body": no such user on this machine '
        "(now; each run looks again and fails without it)",
        'echosched.toml: job.a.group: "n0group": no such group on this machine '
        "(now; each run looks again and fails without it)",
    )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_that_cannot_be_taken_is_an_error(tmp_path: Path) -> None:
    text = '[daemon]\nuser = "nobody"\n[job.a]\ncommand = "x"\nuser = "nobody"\n'
    assert problems(tmp_path, text, uid=0) == [
        'echosched.toml: job.a.user: "nobody": the daemon gives up root ([daemon] user) and cannot do this'
    ]


def test_the_daemons_own_accounts_must_exist_and_be_reachable(tmp_path: Path) -> None:
    text = '[daemon]\nuser = "n0body"\ngroup = "n0body"\ncontrol_group = "n0body"\n'
    assert problems(tmp_path, text) == [
        'echosched.toml: daemon.user: "n0body": no such user on this machine',
        'echosched.toml: daemon.group: "n0body": no such group on this machine',
        'echosched.toml: daemon.control_group: "n0body": no such group on this machine',
    ]
    assert problems(tmp_path, '[daemon]\nuser = "root"\n') == [
        'echosched.toml: daemon.user: "root": only a daemon started by root can run as somebody else'
    ]
    mine = next(entry for entry in pwd.getpwall() if entry.pw_uid > 0)
    assert read(tmp_path, f'[daemon]\nuser = "{mine.pw_name}"\n', uid=mine.pw_uid).daemon.user == mine.pw_name


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("mode", "who"), [(0o666, "everybody"), (0o664, "its group"), (0o646, "everybody")])
def test_root_refuses_files_that_others_may_write(tmp_path: Path, mode: int, who: str) -> None:
    main = tmp_path / "echosched.toml"
    main.write_text("")
    main.chmod(mode)
    for paths in (None, resolve_paths(str(tmp_path), environ={})):
        with pytest.raises(ConfigError) as caught:
            load(str(main), paths=paths, environ={}, uid=0)
        assert caught.value.problems == (
            f"echosched.toml: may be written by {who}, and root runs what it says (chmod go-w)",
        )
    assert load(str(main), environ={}, uid=1000).jobs == {}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_refuses_files_of_others_outside_a_home(tmp_path: Path) -> None:
    main = tmp_path / "echosched.toml"
    main.write_text("")
    os.chown(main, 65_534, 65_534)
    with pytest.raises(ConfigError) as caught:
        load(str(main), environ={}, uid=0)
    assert caught.value.problems == (
        "echosched.toml: belongs to user id 65534, and root runs what it says (chown root)",
    )
    assert load(str(main), paths=resolve_paths(str(tmp_path), environ={}), environ={}, uid=0).jobs == {}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_refuses_a_drop_in_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "jobs.d").chmod(0o777)
    assert problems(tmp_path, "", uid=0, a="") == [
        "jobs.d: may be written by everybody, and root runs what it says (chmod go-w)"
    ]


# ── what ships ────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_config_works_as_it_is(tmp_path: Path) -> None:
    config = read(tmp_path, (ETC / "echosched.toml").read_text())
    assert config.warnings == ()
    assert list(config.jobs) == ["retention", "selfheal", "brief", "report"]
    starts = {name for name, job in config.jobs.items() if job.schedule and "boot" in job.schedule.on_start}
    assert starts == {"retention", "selfheal", "brief"}
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    brief, report = config.jobs["brief"].schedule, config.jobs["report"].schedule
    assert brief is not None
    assert report is not None
    assert brief.next_after(noon) == datetime(2026, 6, 2, 8, tzinfo=UTC)
    assert report.next_after(noon) == datetime(2026, 6, 2, 9, tzinfo=UTC)
    assert all(isinstance(job.action, BuiltinAction) for job in config.jobs.values())


def test_the_echopilot_example_calls_the_api_with_its_key(tmp_path: Path) -> None:
    config = read(tmp_path, (ETC / "examples" / "echopilot.toml").read_text())
    called = {name: job.action for name, job in config.jobs.items() if isinstance(job.action, HttpAction)}
    assert {name: action.url for name, action in called.items()} == {
        "selfheal": "${env:ECHO_BASE_URL}/api/self-heal",
        "brief": "${env:ECHO_BASE_URL}/api/exec/brief",
        "report": "${env:ECHO_BASE_URL}/api/exec/report",
    }
    for action in called.values():
        assert action.method == "POST"
        assert action.headers == (("X-Dash-Key", "${env:DASHBOARD_KEY}"),)
    assert len(config.warnings) == 6


def test_examples_in_comments_of_the_shipped_config_work_too(tmp_path: Path) -> None:
    lines = (ETC / "echosched.toml").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("# [job.backup]"))
    config = read(tmp_path, "\n".join(line.removeprefix("#").strip() for line in lines[start:]))
    assert list(config.jobs) == ["backup", "ping"]

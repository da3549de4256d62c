"""The crontab language, and crontab files run as they are."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.config.crontab import (
    Names,
    describe,
    random_ranges,
    read_setting,
    slug,
    split_command,
    split_line,
    walk,
)
from echosched.config.crontab_files import system_timezone
from echosched.config.load import load
from echosched.config.settings import Config
from echosched.errors import ConfigError
from echosched.model import CommandAction, Job

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(
    tmp_path: Path, crontab: str | bytes, *, toml: str = "", uid: int = 1000, system: bool | None = None
) -> Config:
    path = tmp_path / "crontab"
    path.write_bytes(crontab if isinstance(crontab, bytes) else crontab.encode())
    entry = '"crontab"' if system is None else f'{{ path = "crontab", system = {str(system).lower()} }}'
    if "timezone" not in toml:
        toml = 'timezone = "UTC"\n' + toml
    (tmp_path / "echosched.toml").write_text(toml + f"\n[daemon]\ncrontabs = [{entry}]\n")
    return load(str(tmp_path / "echosched.toml"), environ={}, uid=uid)


def only(config: Config) -> Job:
    (job,) = config.jobs.values()
    return job


def home_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return os.path.expanduser("~")


# ── lines ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("A=b", ("A", "b")),
        ("A = b c  ", ("A", "b c")),
        ('A="b c "', ("A", "b c ")),
        ("A='b \"c'", ("A", 'b "c')),
        ("A=\"b'", ("A", "\"b'")),
        ("A=", ("A", "")),
        ('A=""', ("A", "")),
        ('"A B"=c', None),  # no shell could use such a name
        ("A=b # no comment", ("A", "b # no comment")),
        ("PATH=$HOME/bin:$PATH", ("PATH", "$HOME/bin:$PATH")),
        ("* * * * * A=b cmd", None),
        ("@daily A=b cmd", None),
        ("0 5 * * 1 x --a=b", None),
        ("A b=c", None),
        ('""=c', None),
    ],
)
def test_settings_are_told_from_jobs(line: str, setting: tuple[str, str] | None) -> None:
    assert read_setting(line) == setting


@pytest.mark.parametrize(
    ("line", "system", "expected"),
    [
        ("0 5 * * 1 cmd  arg", False, ("0 5 * * 1", None, "cmd  arg")),
        ("0\t5  *\t*   1\tcmd", False, ("0 5 * * 1", None, "cmd")),
        ("@daily cmd", False, ("@daily", None, "cmd")),
        ("@reboot   root  cmd a", True, ("@reboot", "root", "cmd a")),
        ("0 5 * * 1 root cmd a", True, ("0 5 * * 1", "root", "cmd a")),
        ("-0 5 * * 1 cmd", False, ("0 5 * * 1", None, "cmd")),
    ],
)
def test_job_lines_are_taken_apart(line: str, system: bool, expected: tuple[str, str | None, str]) -> None:
    assert split_line(line, system=system) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("date", ("date", None)),
        ("date +\\%F", ("date +%F", None)),
        ("mail me%Hello%World", ("mail me", "Hello\nWorld\n")),
        ("mail me%Hello%World%", ("mail me", "Hello\nWorld\n")),
        ("mail me%", ("mail me", None)),
        ("mail me%%", ("mail me", "\n")),
        ("mail me%100\\% sure", ("mail me", "100% sure\n")),
        ("a\\\\%b", ("a\\\\", "b\n")),
        ("a \\n b", ("a \\n b", None)),
        ("cat %a\\b", ("cat", "a\\b\n")),
    ],
)
def test_percent_signs_open_standard_input(command: str, expected: tuple[str, str | None]) -> None:
    assert split_command(command) == expected


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        (["# Nightly dump"], "Nightly dump"),
        (["## Nightly", "#   dump ##"], "Nightly dump"),
        (["# m h  dom mon dow   command"], ""),
        (["# Introduction", "#", "# About the job"], "About the job"),
        (["# Old one:", "#0 5 * * * /bin/old"], ""),
        (["# ------------"], ""),
        (["#*/5 * * * * x", "# The new one"], "The new one"),
        (["# a\u001b[31mb"], "a [31mb"),
        (["# " + "x" * 300], "x" * 199 + "…"),
    ],
)
def test_comments_right_above_become_the_description(comments: list[str], expected: str) -> None:
    assert describe(comments) == expected


def test_a_comment_belongs_to_the_line_right_below_it_only() -> None:
    text = "# Far away\n\n@daily a\n# Near\n@daily b\n@daily c\n# Of a setting\nA=1\n@daily d\n"
    assert [(line.text, line.description) for line in walk(text.split("\n"))] == [
        ("@daily a", ""),
        ("@daily b", "Near"),
        ("@daily c", ""),
        ("@daily d", ""),
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0~30 * * * *", "H(0-30) * * * *"),
        ("~ ~ ~ ~ ~", "H(0-59) H(0-23) H(1-28) H(1-12) H(0-6)"),
        ("10~ ~5 * * *", "H(10-59) H(0-5) * * *"),
        ("5,20~40/2 * * * *", "5,H(20-40)/2 * * * *"),
    ],
)
def test_random_ranges_become_hashed_ones(schedule: str, expected: str) -> None:
    assert random_ranges(schedule) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/usr/local/bin/backup.sh", "backup-sh"),
        ("/usr/bin/php /srv/app/artisan schedule:run >> /dev/null 2>&1", "php-artisan-schedule-run"),
        ("cd / && run-parts --report /etc/cron.hourly", "run-parts-report-cron-hourly"),
        (
            "cd /srv/app && FOO=1 BAR='x y' /usr/bin/python3 manage.py clearsessions",
            "python3-manage-py-clearsessions",
        ),
        ("nice -n 19 ionice -c 3 /usr/bin/updatedb", "updatedb"),
        ("/usr/bin/flock -n /tmp/x.lock rsync -a a b", "rsync-a-a-b"),
        (
            "[ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/sessionclean; fi",
            "sessionclean",
        ),
        ("pg_dump app | gzip > x.gz", "pg_dump-app"),
        ("| & ;", "job"),
        ("ÄÖÜ", "job"),
        ("echo " + "word " * 40, "echo-word-word-word-word-word-word-word-word"),
        ("x" * 100, "x" * 48),
    ],
)
def test_a_jobs_name_is_made_of_its_command(command: str, expected: str) -> None:
    assert slug(command) == expected


def test_a_taken_name_gets_a_number_made_of_the_line() -> None:
    taken: set[str] = set()
    names = Names(taken)

    def give(line: str) -> str:
        taken.add(name := names.give("a", line))
        return name

    first, second, third, fourth = give("1 a"), give("2 a"), give("2 a"), give("2 a")
    assert first == "a"
    assert second == f"a-{second[2:]}"
    assert len({first, second, third, fourth}) == 4
    assert Names({"a"}).give("a", "2 a") == second


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def test_a_users_crontab_runs_as_it_is(tmp_path: Path) -> None:
    config = run(
        tmp_path,
        """
        SHELL = /bin/bash
        PATH="/opt/bin:/usr/bin"
        # Nightly dump
        0 2 * * *  pg_dump app > "dump-$(date +\\%F).sql"
        HOME=/srv/app
        CRON_TZ=America/New_York
        RANDOM_DELAY=30
        @daily report%all%
        """,
    )
    dump, report = config.jobs.values()
    assert (dump.name, report.name) == ("pg_dump-app", "report")
    assert dump.action == CommandAction('pg_dump app > "dump-$(date +%F).sql"', shell="/bin/bash")
    assert (dump.description, dump.schedule_text, dump.timezone) == ("Nightly dump", "0 2 * * *", "UTC")
    assert dump.process.env == (("PATH", "/opt/bin:/usr/bin"), ("SHELL", "/bin/bash"))
    assert dump.process.cwd == home_of(1000)
    assert dump.process.user is None
    assert dump.policy.timeout is None
    assert dump.source == "crontab"
    assert report.action == CommandAction("report", shell="/bin/bash", stdin="all\n")
    assert report.process.cwd == "/srv/app"
    assert ("HOME", "/srv/app") in report.process.env
    assert report.timezone == "America/New_York"
    assert report.policy.jitter == timedelta(minutes=30)
    assert report.schedule is not None
    assert report.schedule.next_after(datetime(2026, 6, 1, tzinfo=UTC)) == datetime(2026, 6, 1, 4, tzinfo=UTC)
    assert config.warnings == ()


def test_mailto_becomes_a_message_with_the_output_for_these_jobs_only(tmp_path: Path) -> None:
    config = run(
        tmp_path,
        '@daily a\nMAILTO="root, ops@example.com"\nMAILFROM=cron@example.com\n@daily b\nMAILTO=""\n@daily c\n',
        toml='[notify.hook]\nkind="webhook"\nurl="https://x/"\n[notify.off]\nkind="mail"\nto="x"\ndefault=false\n',
    )
    name = "mailto-root-ops@example.com"
    assert config.jobs["a"].policy.notify is None
    assert config.jobs["b"].policy.notify == ("hook", name)
    assert config.jobs["c"].policy.notify is None
    mail = config.notify[name]
    assert (mail.kind, mail.on, mail.default) == ("mail", ("output",), False)
    assert mail.options == {"to": ("root", "ops@example.com"), "from": "cron@example.com"}
    assert "MAILTO" not in dict(config.jobs["b"].process.env)


def test_mailto_survives_a_reload_in_which_no_line_changed(tmp_path: Path) -> None:
    first = run(tmp_path, "MAILTO=a@b.c\n@daily x\n")
    second = run(tmp_path, "MAILTO=a@b.c\n@daily x\n")
    assert second.notify == first.notify != {}
    assert second.jobs["x"] is first.jobs["x"]


def test_defaults_are_for_crontabs_too(tmp_path: Path) -> None:
    toml = '[defaults]\ntimeout = "5m"\ncwd = "/tmp"\nshell = "/bin/bash"\nenv = { A = "1", B = "2" }\n'
    job = only(run(tmp_path, "B=3\n@daily x y\n", toml=toml))
    assert job.policy.timeout == timedelta(minutes=5)
    assert job.process.cwd == "/tmp"
    assert job.process.env == (("A", "1"), ("B", "3"))
    assert job.action == CommandAction("x y", shell="/bin/bash")


def test_the_systems_zone_counts_unless_the_config_names_one(tmp_path: Path) -> None:
    (tmp_path / "crontab").write_text("0 5 * * * x\n")
    (tmp_path / "echosched.toml").write_text('[daemon]\ncrontabs = "crontab"\n')
    config = load(str(tmp_path / "echosched.toml"), environ={}, uid=1000)
    assert only(config).timezone == system_timezone()
    assert only(run(tmp_path, "0 5 * * * x\n", toml='timezone = "Asia/Tokyo"\n')).timezone == "Asia/Tokyo"


def test_the_systems_zone_is_found() -> None:
    assert system_timezone({"TZ": ":Europe/Berlin"}) == "Europe/Berlin"
    assert system_timezone({"TZ": "Mars/X"}) == system_timezone({})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("61 * * * * x", '"61 * * * *": minute must be 0–59, not 61'),
        ("* * * * *", "a job has 5 time fields and a command: only 5 of 6 words"),
        ("* * * * * %in", "a job has 5 time fields and a command"),
        ("@daily", "nothing follows @daily"),
        (
            "@dialy x",
            '"@dialy": unknown nickname (one of @hourly @daily @midnight @weekly @monthly @yearly @annually'
            " @every @boot @reboot)",
        ),
        ("hello", "a job has 5 time fields and a command: only 1 of 6 words"),
        (
            "CRON_TZ=Mars\n@daily x",
            'CRON_TZ: "Mars": unknown time zone (use a name such as "Europe/Berlin", or "UTC")',
        ),
        ("SHELL=bash\n@daily x", 'SHELL: "bash": must be the absolute path of a shell'),
        ("HOME=x\n@daily x", 'HOME: "x": must be an absolute path (or begin with ~)'),
        ("MAILTO=a<b\n@daily x", 'MAILTO: ["a<b"]: "a<b" is no mail address'),
        ("RANDOM_DELAY=x\n@daily x", 'RANDOM_DELAY: "x": must be a number of minutes'),
        ("0~99 * * * * x", '"0~99 * * * *": minute must be 0–59, not 99 in H(0-99)'),
        ("\0", "holds a NUL character"),
    ],
)
def test_a_wrong_line_names_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, "# fine\n@daily fine\n" + line + "\n")
    number = 4 if "\n" in line else 3
    assert caught.value.problems == (f"crontab:{number}: {reason}",)


def test_thousands_of_wrong_lines_are_counted_not_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, "x\n" * 5000)
    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1] == "crontab: and 4950 more lines that are wrong"


def test_names_of_toml_jobs_stay_theirs(tmp_path: Path) -> None:
    config = run(tmp_path, "@daily backup\n", toml='[job.backup]\ncommand = "x"\nschedule = "@daily"\n')
    assert len(config.jobs) == 2
    assert config.jobs["backup"].source == "echosched.toml: job.backup"


def test_several_crontabs_and_globs_with_the_names_that_cron_reads(tmp_path: Path) -> None:
    directory = tmp_path / "cron.d"
    directory.mkdir()
    for name in ("b", "a", "a.dpkg-old", "c~", ".hidden"):
        (directory / name).write_text(f"@daily job-{name[0]}\n")
    (tmp_path / "echosched.toml").write_text('[daemon]\ncrontabs = ["cron.d/*", "cron.d/a"]\n')
    config = load(str(tmp_path / "echosched.toml"), environ={}, uid=1000)
    assert list(config.jobs) == ["job-a", "job-b"]


def test_bytes_that_are_no_utf8_reach_the_command_unchanged(tmp_path: Path) -> None:
    job = only(run(tmp_path, b"# Gr\xfc\xdfe\n@daily echo \xff\n"))
    assert isinstance(job.action, CommandAction)
    assert os.fsencode(str(job.action.command)) == b"echo \xff"
    job.description.encode()
    assert len(job.definition) == 16


def test_lines_may_end_in_carriage_returns_and_hold_form_feeds(tmp_path: Path) -> None:
    config = run(tmp_path, "A=1\r\n@daily x\r\n@hourly y \x0c z\r\n")
    assert [job.action for job in config.jobs.values()] == [CommandAction("x"), CommandAction("y \x0c z")]
    assert config.jobs["x"].process.env == (("A", "1"),)


# ── users ─────────────────────────────────────────────────────────────────────────────────────


def test_a_user_daemon_runs_only_its_own_lines_of_a_system_crontab(tmp_path: Path) -> None:
    uid = next(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid > 0)
    me = pwd.getpwuid(uid).pw_name
    assert only(run(tmp_path, f"@daily {me} x\n", uid=uid, system=True)).process.user is None
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, "@daily root x\n", uid=uid, system=True)
    assert caught.value.problems == (
        'crontab:1: "root": only a daemon run by root can run jobs as somebody else',
    )


@pytest.mark.root
@ROOT
def test_a_root_daemon_runs_each_line_of_a_system_crontab_as_its_user(tmp_path: Path) -> None:
    config = run(tmp_path, "@daily root a\n@daily nobody b\n", uid=0, system=True)
    assert [job.process.user for job in config.jobs.values()] == [None, "nobody"]
    assert config.jobs["b"].process.cwd == pwd.getpwnam("nobody").pw_dir
    (warning,) = run(tmp_path, "@daily n0body a\n", uid=0, system=True).warnings
    assert '"n0body": no such user on this machine' in warning


@pytest.mark.root
@ROOT
def test_a_daemon_that_gives_up_root_is_judged_as_the_user_it_becomes(tmp_path: Path) -> None:
    (tmp_path / "crontab").write_text("@daily nobody a\n")
    text = '[daemon]\nuser = "nobody"\ncrontabs = [{ path = "crontab", system = true }]\n'
    (tmp_path / "echosched.toml").write_text(text)
    job = only(load(str(tmp_path / "echosched.toml"), environ={"HOME": "/root"}, uid=0))
    assert (job.process.user, job.process.cwd) == (None, pwd.getpwnam("nobody").pw_dir)
    (tmp_path / "crontab").write_text("@daily root a\n")
    with pytest.raises(ConfigError, match=r'crontab:1: "root": the daemon gives up root'):
        load(str(tmp_path / "echosched.toml"), environ={}, uid=0)


@pytest.mark.root
@ROOT
def test_a_users_crontab_run_by_root_runs_as_its_owner(tmp_path: Path) -> None:
    run(tmp_path, "@daily a\n", uid=0)
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path / "crontab", nobody.pw_uid, nobody.pw_gid)
    config = load(str(tmp_path / "echosched.toml"), environ={}, uid=0)
    assert only(config).process.user == "nobody"
    (tmp_path / "crontab").chmod(0o666)
    with pytest.raises(ConfigError, match="may be written by everybody"):
        load(str(tmp_path / "echosched.toml"), environ={}, uid=0)
    (tmp_path / "crontab").chmod(0o600)
    text = (
        (tmp_path / "echosched.toml").read_text().replace('"crontab"', '{ path = "crontab", system = true }')
    )
    (tmp_path / "echosched.toml").write_text(text)
    with pytest.raises(ConfigError, match="belongs to user id"):
        load(str(tmp_path / "echosched.toml"), environ={}, uid=0)


# ── reload ────────────────────────────────────────────────────────────────────────────────────

LINES = [f"{n % 60} {n % 24} * * * /opt/bin/task{n % 7} --n {n // 2}" for n in range(40)]


def test_unchanged_lines_give_the_very_same_jobs(tmp_path: Path) -> None:
    before = run(tmp_path, "A=1\n" + "\n".join(LINES)).jobs
    changed = [*LINES[:10], "5 5 * * * /opt/bin/other", *LINES[11:], "7 7 * * * /opt/bin/new"]
    after = run(tmp_path, "A=1\n" + "\n".join(changed)).jobs
    same = [name for name, job in after.items() if before.get(name) is job]
    assert len(before) == 40
    assert len(after) == 41
    assert len(same) == 39
    assert set(after) - set(before) == {"other", "new"}


def test_a_changed_setting_makes_other_jobs_below_it_but_not_above(tmp_path: Path) -> None:
    before = run(tmp_path, "@daily a\nA=1\n@daily b\n").jobs
    after = run(tmp_path, "@daily a\nA=2\n@daily b\n").jobs
    assert after["a"] is before["a"]
    assert after["b"].process.env == (("A", "2"),)
    assert after["b"].definition != before["b"].definition
    assert after["b"].timing == before["b"].timing


def test_a_changed_default_reaches_unchanged_lines(tmp_path: Path) -> None:
    run(tmp_path, "@daily a\n")
    job = only(run(tmp_path, "@daily a\n", toml="[defaults]\nretries = 7\n"))
    assert job.policy.retries == 7


def test_names_do_not_change_when_other_lines_come_and_go(tmp_path: Path) -> None:
    lines = ["1 1 * * * sync", "2 2 * * * sync", "3 3 * * * sync", "3 3 * * * sync"]
    before = {job.schedule_text + name: job for name, job in run(tmp_path, "\n".join(lines)).jobs.items()}
    more = ["0 0 * * * first", *lines[:1], "9 9 * * * between", *lines[1:], "4 4 * * * sync"]
    after = {job.schedule_text + name: job for name, job in run(tmp_path, "\n".join(more)).jobs.items()}
    assert len(before) == 4
    assert all(after[key] is job for key, job in before.items())
    # A fresh process, without memory of earlier readings, must come to the same names.
    (tmp_path / "again").mkdir()
    fresh = run(tmp_path / "again", "\n".join(more)).jobs
    assert {job.schedule_text + name for name, job in fresh.items()} == set(after)


def test_the_plain_name_goes_to_the_next_line_when_its_owner_leaves(tmp_path: Path) -> None:
    run(tmp_path, "1 1 * * * sync\n2 2 * * * sync\n")
    left = run(tmp_path, "2 2 * * * sync\n").jobs
    assert list(left) == ["sync"]
    assert left["sync"].schedule_text == "2 2 * * *"


def test_hashed_schedules_follow_the_name(tmp_path: Path) -> None:
    config = run(tmp_path, "H H * * * a\nH H * * * b\n0~59 3 * * * c\n")
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    slots = {
        name: job.schedule.next_after(noon) for name, job in config.jobs.items() if job.schedule is not None
    }
    assert slots["a"] != slots["b"]
    assert slots["c"] is not None
    assert slots["c"].hour == 3


def test_equal_schedules_and_settings_are_shared(tmp_path: Path) -> None:
    jobs = list(run(tmp_path, "A=1\n" + "".join(f"5 5 * * * job{n}\n" for n in range(50))).jobs.values())
    for part in ("schedule", "policy", "process", "timing", "timezone", "source"):
        assert len({id(getattr(job, part)) for job in jobs}) == 1, part

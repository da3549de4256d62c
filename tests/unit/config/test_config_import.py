"""A crontab printed as TOML loads back to the jobs that the crontab itself gives."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from echosched.config.crontab_import import import_crontab
from echosched.config.load import load
from echosched.config.settings import Config
from echosched.errors import ConfigError
from echosched.model import Job

DEBIAN_ETC_CRONTAB = r"""
# /etc/crontab: system-wide crontab
# Unlike any other crontab you don't have to run the `crontab'
# command to install the new version when you edit this file
# and files in /etc/cron.d.

SHELL=/bin/sh
# You can also override PATH, but by default, newer versions inherit it from the environment
#PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

# Example of job definition:
# .---------------- minute (0 - 59)
# |  .------------- hour (0 - 23)
# |  |  .---------- day of month (1 - 31)
# |  |  |  .------- month (1 - 12) OR jan,feb,mar,apr ...
# |  |  |  |  .---- day of week (0 - 6) (Sunday=0 or 7) OR sun,mon,tue,wed,thu,fri,sat
# |  |  |  |  |
# *  *  *  *  * user-name command to be executed
17 *	* * *	root    cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
47 6	* * 7	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.weekly; }
52 6	1 * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.monthly; }
#
"""

# ruff: noqa: E501 - lines of real crontabs are as long as they are
CRON_D = r"""
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin
# certbot
0 */12 * * * root test -x /usr/bin/certbot -a \! -d /run/systemd/system && perl -e 'sleep int(rand(43200))' && certbot -q renew
# Look for and purge old sessions every 30 minutes
09,39 *     * * *     root   [ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/sessionclean; fi
30 7-23 * * *   root	[ -x /etc/init.d/anacron ] && if [ ! -d /run/systemd/system ]; then /usr/sbin/invoke-rc.d anacron start >/dev/null; fi
5-55/10 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1
59 23 * * * root command -v debian-sa1 > /dev/null && debian-sa1 60 2
57 0 * * 0 root if [ -x /usr/share/mdadm/checkarray ] && [ $(date +\%d) -le 7 ]; then /usr/share/mdadm/checkarray --cron --all --idle --quiet; fi
30 3 * * 0 root test -e /run/systemd/system || SERVICE_MODE=1 /usr/lib/x86_64-linux-gnu/e2fsprogs/e2scrub_all_cron
10 3 * * * root test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all -A -r
MAILTO=www-admin
*/5 * * * * www-data [ -x /usr/share/awstats/tools/update.sh ] && /usr/share/awstats/tools/update.sh
@reboot nobody /bin/true
"""

USERS = {
    "debian-template": """
# Edit this file to introduce tasks to be run by cron.
#
# Each task to run has to be defined through a single line
# indicating with different fields when the task will be run
# and what command to run for the task
#
# For example, you can run a backup of all your user accounts
# at 5 a.m every week with:
# 0 5 * * 1 tar -zcf /var/backups/home.tgz /home/
#
# m h  dom mon dow   command
0 5 * * 1 tar -zcf /var/backups/home.tgz /home/
""",
    "percent": r"""
0 2 * * * pg_dump "app" > "$HOME/dumps/app-$(date +\%F).sql" 2>&1
30 9 * * mon-fri mail -s "It's 9:30" me%Good morning,%%it is half past nine.%
0 0 * * * cat%100\% "quoted" \n back\\slash
0 1 * * * cat%%
""",
    "settings": """
MAILTO="me@example.org, you@example.org"
MAILFROM=cron@example.org
PATH = "/home/me/bin:/usr/bin:/bin"
LANG='de_DE.UTF-8'
EMPTY=
QUOTED="say 'hi' \\"
@hourly one
CRON_TZ=America/New_York
TZ=Asia/Tokyo
0 9 * * 1-5 two --at nine
SHELL=/bin/bash
HOME=/srv/app
RANDOM_DELAY=45
*/20 * * * * three <(ls) | tee -a log
MAILTO=""
@daily four
""",
    "laravel": "* * * * * cd /var/www/app && php artisan schedule:run >> /dev/null 2>&1\n",
    "nextcloud": "*/5 * * * * php -f /var/www/nextcloud/cron.php\n",
    "acme": '31 0 * * * "/home/me/.acme.sh"/acme.sh --cron --home "/home/me/.acme.sh" > /dev/null\n',
    "flock": """
*/10 * * * * /usr/bin/flock -n /tmp/sync.lock rsync -a --delete ~/docs/ backup:docs/
* * * * * sleep 30; /opt/poll.sh
*/15 8-18 * * 1-5 [ "$(hostname)" = "web1" ] && /opt/x.sh || true
0 4 1-7 * * [ "$(date +\\%u)" = 7 ] && /opt/first-sunday.sh
""",
    "same-names": """
1 1 * * * /opt/sync.sh
2 2 * * * /opt/sync.sh
2 2 * * * /opt/sync.sh
3 3 * * * /srv/sync.sh
""",
    "nicknames": "@reboot a\n@yearly b\n@annually c\n@monthly d\n@weekly e\n@daily f\n@midnight g\n@hourly h\n",
    "names": "0 0 1 JAN,jul * a\n0 0 * * Sun b\n0 0 * * 5-7 c\n0-59/2,5 */3 1,15 * 1 d\n",
    "random": "0~30 4 * * sun backup.sh\n~ 4 * * * other.sh\n",
    "quiet": "-*/10 * * * * munin-run plugin\n",
    "control": "0 0 * * * printf 'a\tb'\x7f\n",
    "umlauts": "# Größe prüfen\n0 0 * * * echo 'Grüße' > \"/tmp/ü\"\n",
    "quotes": "0 0 * * * awk '{print \"x\\ty\"}' f\n0 0 * * * echo it\\'s '\"\"\"' \"'''\"\n",
    "empty": "# nothing\n\nA=b\n",
}


def jobs_of_crontab(tmp_path: Path, text: str, *, system: bool, uid: int) -> Config:
    (tmp_path / "ct").write_text(text)
    (tmp_path / "a.toml").write_text(
        f'timezone = "Europe/Berlin"\n[daemon]\ncrontabs = [{{ path = "ct", system = {str(system).lower()} }}]\n'
    )
    return load(str(tmp_path / "a.toml"), environ={}, uid=uid)


def jobs_of_toml(tmp_path: Path, text: str, *, uid: int) -> Config:
    (tmp_path / "b.toml").write_text(text)
    return load(str(tmp_path / "b.toml"), environ={}, uid=uid)


def essence(config: Config) -> dict[str, Job]:
    return {name: replace(job, source="") for name, job in config.jobs.items()}


def assert_round_trip(tmp_path: Path, text: str, *, system: bool = False, uid: int = 1000) -> str:
    toml = import_crontab(text, system, timezone="Europe/Berlin")
    want = jobs_of_crontab(tmp_path, text, system=system, uid=uid)
    got = jobs_of_toml(tmp_path, toml, uid=uid)
    assert essence(got) == essence(want)
    assert got.notify == want.notify
    assert got.warnings == want.warnings == ()
    return toml


@pytest.mark.parametrize("name", USERS)
def test_users_crontabs_round_trip(tmp_path: Path, name: str) -> None:
    assert_round_trip(tmp_path, USERS[name])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("text", [DEBIAN_ETC_CRONTAB, CRON_D], ids=["etc", "cron.d"])
def test_system_crontabs_round_trip(tmp_path: Path, text: str) -> None:
    toml = assert_round_trip(tmp_path, text, system=True, uid=0)
    assert "# - user needs a daemon that is run by root\n" in toml
    assert toml.count("[job.") == len(re.findall(r"^[\d@*]", text, re.MULTILINE))


def test_what_is_printed_reads_well() -> None:
    text = '# Nightly\n0 2 * * * pg_dump "app" > x\nCRON_TZ=Asia/Tokyo\n@daily me%hello%you\n'
    assert import_crontab(text, timezone="UTC") == (
        "# Imported from a crontab: 2 jobs. What means something else here:\n"
        '# - cron starts a job again while it still runs; here that slot is skipped (overlap = "allow": as cron)\n'
        "# - cron forgets what it missed while it was off; here the newest missed slot is run "
        '(catchup = "none": as cron)\n'
        "# - without MAILTO cron mails output to the owner; here it is kept: echoschedd output RUN\n"
        "\n"
        'timezone = "UTC"\n'
        "\n"
        "[defaults]\n"
        'timeout = "0"          # cron lets jobs run for ever\n'
        'cwd = "~"              # and starts them in the home directory\n'
        "\n"
        "[job.pg_dump-app]\n"
        'description = "Nightly"\n'
        'schedule = "0 2 * * *"\n'
        "command = 'pg_dump \"app\" > x'\n"
        "\n"
        "[job.me]\n"
        'schedule = "@daily"\n'
        'command = "me"\n'
        'stdin = "hello\\nyou\\n"\n'
        'timezone = "Asia/Tokyo"\n'
    )


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("0~9 * * * * x\n", "a random range (0~30) is chosen anew at each start of cron"),
        ("RANDOM_DELAY=5\n@daily x\n", "RANDOM_DELAY is a different delay each day in cron"),
        ("@reboot x\n", "@reboot fires once per boot of the machine"),
        ("TZ=Asia/Tokyo\n@daily x\n", "TZ is handed to jobs and does not move their times"),
        ("LOGNAME=x\n@daily x\n", "cron does not let a crontab change LOGNAME"),
        ("-@daily x\n", "a leading - (no entry in syslog) has no meaning here"),
        ("@daily x\n", "without MAILTO cron mails output to the owner"),
    ],
)
def test_what_means_something_else_is_noted_and_only_then(text: str, note: str) -> None:
    assert note in import_crontab(text, timezone="UTC")
    assert note not in import_crontab("MAILTO=a\n@daily x\n", timezone="UTC")


def test_wrong_lines_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        import_crontab("61 * * * * x\n@daily\n\0 * * * * x\n@daily y\n@daily \udcff\n", name="old")
    assert caught.value.problems == (
        'old:1: "61 * * * *": minute must be 0–59, not 61',
        "old:2: nothing follows @daily",
        "old:3: holds a NUL character",
        "old:5: is not UTF-8 text",
    )


def test_a_secret_in_a_crontab_setting_is_only_where_it_belongs() -> None:
    toml = import_crontab("TOKEN=abc\n@daily x\n", timezone="UTC")
    assert tomllib.loads(toml)["defaults"]["env"] == {"TOKEN": "abc"}
    assert toml.count("abc") == 1

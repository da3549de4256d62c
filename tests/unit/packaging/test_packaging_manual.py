"""The manual pages and the program say the same: every command, option, key and default, in both directions."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from echosched.cli.completion import options_of
from echosched.cli.usage import COMMON, TOP, USAGE
from echosched.config import actions, cluster, daemon_settings, job_keys, load, settings, tables
from echosched.model import HttpAction, Policy

MAN = Path(__file__).resolve().parents[3] / "man"
PAGES = ("echoschedd.8", "echosched.toml.5", "echosched-crontab.5", "echosched.3")


def sections(page: str, level: str = "Ss") -> dict[str, list[str]]:
    """Return heading → lines of one level of a page; a heading of the level above ends the one before."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in (MAN / page).read_text().splitlines():
        if line.startswith((f".{level} ", ".Sh ")):
            current = found.setdefault(line[4:], []) if line.startswith(f".{level} ") else None
        elif current is not None:
            current.append(line)
    return found


def flags(lines: list[str]) -> list[str]:
    """Return the options that the items of a list describe, spelled as on the command line."""
    found = []
    for line in lines:
        if line.startswith(".It Fl "):
            words = line[7:].replace(" ,", ",").split()
            for before, word in zip(["Fl", *words], words, strict=False):
                if before in ("Fl", "Fl,") or before.endswith(","):
                    found.append("-" + word.rstrip(","))
    return [flag for flag in found if flag != "-Fl"]


def described(text: str) -> list[str]:
    return [name for option in options_of(text) for name in option.names]


COMMON_FLAGS = described(COMMON)


def test_every_command_has_a_section_in_the_page_and_every_section_is_a_command() -> None:
    documented = [heading.split()[0] for heading in sections("echoschedd.8")]
    commands = [name for name in documented if name.islower()]
    assert sorted(commands) == sorted(USAGE)


@pytest.mark.parametrize("command", USAGE)
def test_a_commands_options_stand_in_its_section_exactly_once(command: str) -> None:
    lines = next(
        lines for heading, lines in sections("echoschedd.8").items() if heading.split()[0] == command
    )
    own = [name for name in described(USAGE[command]) if name not in COMMON_FLAGS]
    assert Counter(flags(lines)) == Counter(own)


def test_the_options_of_every_command_stand_once_in_a_section_of_their_own() -> None:
    lines = sections("echoschedd.8", "Sh")["PLACES"]
    assert Counter(flags(lines)) == Counter({*COMMON_FLAGS, *described(TOP)})


@pytest.mark.parametrize("command", USAGE)
def test_the_values_that_the_usage_gives_as_defaults_stand_in_the_page(command: str) -> None:
    lines = next(
        lines for heading, lines in sections("echoschedd.8").items() if heading.split()[0] == command
    )
    for option in options_of(USAGE[command]):
        if default := re.search(r"\[default: (\S+)\]", option.text):
            start = next(
                i
                for i, line in enumerate(lines)
                if line.startswith(".It Fl") and option.names[-1][1:] in line.split()
            )
            item = " ".join(lines[start : start + 5]).replace(".Cm ", "")
            assert default[1] in item, f"{command} {option.names}"


# ── echosched.toml(5) ─────────────────────────────────────────────────────────────────────────


def keys_of_page() -> dict[str, list[str]]:
    """Return table → items of echosched.toml(5); a table is what the heading begins with."""
    found: dict[str, list[str]] = {}
    for heading, lines in sections("echosched.toml.5").items():
        table = re.match(r"(\[[^]]+\](?:, of kind \w+)?)", heading)
        name = table[1] if table else "outside" if heading == "Outside the tables" else ""
        if name:
            found.setdefault(name, []).extend(line[7:] for line in lines if line.startswith(".It Ic "))
    return found


def keys_of_program() -> dict[str, set[str]]:
    expected = {
        "outside": {key if key in ("timezone", "include") else f"[{key}]" for key in load.MAIN_TABLES},
        "[daemon]": set(daemon_settings.DaemonConfig.__slots__),
        "[retention]": set(tables.RETENTION_KEYS),
        "[web]": set(tables.WEB_KEYS),
        "[cluster]": set(cluster.CLUSTER_KEYS),
        "[job.NAME]": set(job_keys.JOB_KEYS) | set(actions.ACTION_KEYS),
        "[job.NAME.http]": set(actions._HTTP_KEYS),
        "[notify.NAME]": set(tables._NOTIFY_COMMON),
    }
    for kind, keys in tables._NOTIFY_KEYS.items():
        expected[f"[notify.NAME], of kind {kind}"] = set(keys)
    expected["outside"] = {
        k.replace("[job]", "[job.NAME]").replace("[notify]", "[notify.NAME]") for k in expected["outside"]
    }
    return expected


@pytest.mark.parametrize("table", keys_of_program())
def test_every_key_stands_in_its_table_of_the_page_exactly_once(table: str) -> None:
    documented = [item.split(" = ")[0] for item in keys_of_page()[table]]
    assert Counter(documented) == Counter(keys_of_program()[table])


def test_the_page_describes_no_table_that_the_program_does_not_know() -> None:
    assert set(keys_of_page()) == set(keys_of_program())


def documented_defaults(table: str) -> dict[str, object]:
    """Return key → value of the items that show a value instead of naming its kind."""
    found = {}
    for item in keys_of_page()[table]:
        key, _, value = item.partition(" = ")
        if value and "Ar " not in value:
            literal = f'"{value[3:]}"' if value.startswith("Qq ") else value
            found[key] = tomllib.loads(f"value = {literal}")["value"]
    return found


def test_defaults_of_the_daemon_table_are_those_of_the_program() -> None:
    problems = load.values.Problems()
    stated = daemon_settings.read_daemon_table(documented_defaults("[daemon]"), "page", problems)
    assert not problems.lines
    assert stated == daemon_settings.DaemonConfig()


def test_defaults_of_retention_and_web_are_those_of_the_program() -> None:
    problems = load.values.Problems()
    retention = tables.read_retention(documented_defaults("[retention]"), "page", problems)
    web = tables.read_web(documented_defaults("[web]"), "page", problems)
    assert not problems.lines
    assert (retention, web) == (settings.RetentionConfig(), settings.WebConfig())


def test_defaults_of_the_cluster_are_those_of_the_program() -> None:
    problems = load.values.Problems()
    least = {"dsn": "postgresql://db/x", "instance": "a"}
    stated = cluster.read_cluster(least | documented_defaults("[cluster]"), "page", problems)
    assert not problems.lines
    assert stated == settings.Cluster(dsn="postgresql://db/x", instance="a")
    assert set(documented_defaults("[cluster]")) == {"heartbeat", "lease"}


def test_defaults_of_a_job_are_those_of_the_program() -> None:
    stated = {k: job_keys.JOB_KEYS[k](v) for k, v in documented_defaults("[job.NAME]").items()}
    program: dict[str, object] = {
        key: getattr(Policy(), key) for key in job_keys.POLICY_KEYS if key in stated
    }
    program |= {"enabled": True, "dst": "once", "success_codes": (0,)}
    assert stated == program


def test_every_default_of_a_jobs_policy_is_stated() -> None:
    stated = documented_defaults("[job.NAME]")
    unstated = {
        key for key in job_keys.POLICY_KEYS if key not in stated and getattr(Policy(), key) not in (None, ())
    }
    assert unstated == set()


def test_defaults_of_a_call_are_those_of_the_program() -> None:
    stated = documented_defaults("[job.NAME.http]")
    call = HttpAction(url="http://localhost/")
    assert stated == {key: getattr(call, key) for key in stated}
    assert {"method", "verify", "follow_redirects"} <= set(stated)


# ── examples ──────────────────────────────────────────────────────────────────────────────────


def examples(page: str) -> list[str]:
    text = (MAN / page).read_text()
    blocks = re.findall(r"^\.Bd -literal -offset indent\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)
    return [block.replace(r"\&", "") for block in blocks]


@pytest.mark.parametrize("page", PAGES)
def test_examples_come_first(page: str) -> None:
    text = (MAN / page).read_text()
    assert text.index(".Ss Examples") < min(i for i in (text.find("\n.Bl "), len(text)) if i >= 0)
    assert text.index(".Ss ") == text.index(".Ss Examples")


@pytest.mark.parametrize(
    "block", [b for b in examples("echosched.toml.5") if "[" in b] + examples("echosched-crontab.5")[:1]
)
def test_examples_of_configuration_are_valid(block: str, tmp_path: Path) -> None:
    text = re.sub(r'"/etc/cron[^"]*"', f'"{tmp_path}/tab"', block)
    (tmp_path / "tab").write_text("")
    (tmp_path / "echosched.toml").write_text(text)
    config = load.load(
        str(tmp_path / "echosched.toml"), environ={"ECHO_BASE_URL": "http://localhost"}, uid=1000
    )
    assert config.jobs or config.daemon.crontabs


@pytest.mark.parametrize("line", [line for b in examples("echoschedd.8") for line in b.splitlines()])
def test_examples_of_commands_are_understood(line: str) -> None:
    from echosched.cli.dispatch import parse, split

    words = shlex.split(line)
    assert words[0] == "echoschedd"
    verb, rest = split(words[1:])
    assert parse(verb, rest)


@pytest.mark.parametrize("page", PAGES)
def test_pages_refer_to_each_other_by_names_that_exist(page: str) -> None:
    own = {tuple(name.rsplit(".", 1)) for name in PAGES}
    for name, section in re.findall(r"^\.Xr (\S+) (\d)", (MAN / page).read_text(), re.MULTILINE):
        assert (name, section) in own or not name.startswith("echosched"), f"{name}({section})"

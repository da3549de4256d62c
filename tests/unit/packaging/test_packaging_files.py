"""What pip lays out besides the package, and what the files under etc/ promise each other."""

from __future__ import annotations

import configparser
import pwd
import re
import subprocess
from pathlib import Path

import pytest

from echosched import errors

ROOT = Path(__file__).resolve().parents[3]
ETC = ROOT / "etc"
ACCOUNT = pwd.getpwnam("nobody")


def data_files() -> dict[str, set[str]]:
    """Return target directory → files of the list in setup.cfg, patterns resolved."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return {
        target: {str(path.relative_to(ROOT)) for pattern in patterns.split() for path in ROOT.glob(pattern)}
        for target, patterns in config["options.data_files"].items()
    }


def test_pip_lays_out_every_manual_page_where_man_looks() -> None:
    for page in (ROOT / "man").iterdir():
        assert f"man/{page.name}" in data_files()[f"share/man/man{page.suffix[1:]}"]


def test_pip_lays_out_every_sample_of_etc() -> None:
    listed = set().union(*data_files().values())
    samples = {
        f"etc/{path.name}" for path in ETC.iterdir() if path.is_file() and not path.name.startswith(".")
    }
    assert samples <= listed
    assert {f"etc/examples/{path.name}" for path in (ETC / "examples").iterdir()} <= listed


@pytest.mark.parametrize("target", data_files())
def test_every_pattern_of_the_list_finds_a_file(target: str) -> None:
    assert data_files()[target]


def unit(name: str) -> dict[str, list[str]]:
    """Return key → values of a unit file, in their order."""
    found: dict[str, list[str]] = {}
    for line in (ETC / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_systemd_does_not_try_again_what_cannot_get_better() -> None:
    codes = {str(errors.EX_USAGE), str(errors.EX_NOT_CONFIGURED)}
    for name in ("echosched.service", "echosched-user.service", "echosched-web.service"):
        assert set(unit(name)["RestartPreventExitStatus"][0].split()) == codes
    supervisord = re.search(
        r"^exitcodes=(.*)$", (ETC / "examples/supervisord.conf").read_text(), re.MULTILINE
    )
    assert supervisord is not None
    assert set(supervisord[1].split(",")) == codes | {"0"}


def test_the_units_of_the_daemon_let_jobs_outlive_it() -> None:
    for name in ("echosched.service", "echosched-user.service"):
        assert unit(name)["KillMode"] == ["process"]
        assert unit(name)["OOMPolicy"] == ["continue"]
        assert unit(name)["Type"] == ["notify"]
        assert unit(name)["Restart"] == ["on-failure"]


def test_everything_that_stops_the_daemon_waits_longer_than_its_grace() -> None:
    from echosched.config.daemon_settings import DaemonConfig

    least = DaemonConfig().grace.total_seconds() + 15
    for name in ("echosched.service", "echosched-user.service", "echosched-web.service"):
        assert float(unit(name)["TimeoutStopSec"][0].rstrip("s")) >= least


def test_the_shipped_debian_configuration_is_valid(tmp_path: Path) -> None:
    from echosched.config.load import load

    text = (ROOT / "debian/echosched.toml").read_text()
    assert 'user = "echosched"' in text
    # The package makes that user; here somebody who exists stands in, who is what the unit has the daemon be.
    text = text.replace('user = "echosched"', f'user = "{ACCOUNT.pw_name}"')
    (tmp_path / "echosched.toml").write_text(text)
    config = load(str(tmp_path / "echosched.toml"), uid=ACCOUNT.pw_uid)
    assert config.daemon.user == ACCOUNT.pw_name
    # What is commented out is an example, and must be a working one.
    (tmp_path / "echosched.toml").write_text(re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE))
    assert len(load(str(tmp_path / "echosched.toml"), uid=ACCOUNT.pw_uid).jobs) > len(config.jobs)


def test_the_init_script_is_posix_shell() -> None:
    subprocess.run(["sh", "-n", str(ETC / "echosched.init")], check=True)
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", str(ROOT / f"debian/echosched.{script}")], check=True)

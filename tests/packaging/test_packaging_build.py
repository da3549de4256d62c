"""dpkg-buildpackage, without a network and not as root, and what comes out of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import lab
import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.root, pytest.mark.timeout(1800)]
MINE = ("echosched.3", "echosched.toml.5", "echosched-crontab.5", "echoschedd.8")


def field(deb: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "--field", str(deb), name], check=True, capture_output=True, text=True
    ).stdout.strip()


def contents(deb: Path) -> set[str]:
    listing = subprocess.run(
        ["dpkg-deb", "--contents", str(deb)], check=True, capture_output=True, text=True
    ).stdout
    return {
        re.split(r"\s+", line, maxsplit=5)[5].split(" -> ")[0].lstrip(".") for line in listing.splitlines()
    }


def test_the_build_gives_a_daemon_and_a_library(debs: list[Path]) -> None:
    assert [field(deb, "Package") for deb in debs] == ["echosched", "python3-echosched"]
    version = re.search(r'__version__ = "(.+)"', (lab.SOURCE / "echosched/version.py").read_text())
    assert version is not None
    assert {field(deb, "Version") for deb in debs} == {version[1]}


def test_the_daemon_package_has_everything_that_a_daemon_has(debs: list[Path]) -> None:
    expected = {
        "/usr/bin/echoschedd",
        "/lib/systemd/system/echosched.service",
        "/lib/systemd/system/echosched-web.service",
        "/usr/lib/systemd/user/echosched.service",
        "/etc/init.d/echosched",
        "/etc/default/echosched",
        "/etc/logrotate.d/echosched",
        "/etc/echosched/echosched.toml",
        "/etc/echosched/jobs.d/",
        "/usr/share/bash-completion/completions/echoschedd",
        "/usr/share/zsh/vendor-completions/_echoschedd",
        "/usr/share/fish/vendor_completions.d/echoschedd.fish",
        "/usr/share/man/man8/echoschedd.8.gz",
        "/usr/share/man/man5/echosched.toml.5.gz",
        "/usr/share/man/man5/echosched-crontab.5.gz",
        "/usr/share/doc/echosched/examples/hardened.conf",
    }
    assert expected <= contents(debs[0])


def test_the_library_package_has_the_package_and_its_page(debs: list[Path]) -> None:
    files = contents(debs[1])
    assert {
        "/usr/lib/python3/dist-packages/echosched/py.typed",
        "/usr/share/man/man3/echosched.3.gz",
    } <= files
    assert any(name.endswith(".sql") for name in files)
    assert not any(
        name.startswith(("/usr/bin", "/etc", "/usr/lib/python3/dist-packages/tests")) for name in files
    )


def test_what_runs_depends_on_debian_twelve_only(debs: list[Path], build_root: lab.Chroot) -> None:
    wanted = {
        name
        for deb in debs
        for kind in ("Depends", "Recommends", "Suggests", "Pre-Depends")
        for name in re.findall(r"(?:^|[,|])\s*([a-z0-9.+-]+)", field(deb, kind))
    } - {"echosched", "python3-echosched"}
    assert {
        "python3-daemon",
        "python3-lockfile",
        "python3-psutil",
        "python3-docopt",
        "python3-aiohttp",
    } <= wanted
    runtime = {name for name in re.findall(r"(?:^|[,|])\s*([a-z0-9.+-]+)", field(debs[1], "Depends"))}
    assert runtime - {"python3"} <= set(lab.RUNTIME)


def test_lintian_has_nothing_to_say(packages: Path, build_root: lab.Chroot) -> None:
    target = build_root.place / "lint"
    target.mkdir()
    for file in packages.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    done = build_root.run(
        "cd /lint && lintian --pedantic --display-info --allow-root *.changes 2>&1", check=False
    )
    assert (done.code, done.out) == (0, "")


def test_every_lintian_override_has_its_reason() -> None:
    for file in [
        *(lab.SOURCE / "debian").glob("*.lintian-overrides"),
        *(lab.SOURCE / "debian/source").glob("lintian-overrides"),
    ]:
        reasoned = False
        for line in file.read_text().splitlines():
            if line and not line.startswith("#"):
                assert reasoned, f"{file.name}: {line}"
            reasoned = line.startswith("#") or (reasoned and bool(line))


def test_mandoc_has_nothing_to_say_about_the_pages(build_root: lab.Chroot) -> None:
    pages = build_root.place / "pages"
    pages.mkdir()
    for name in MINE:
        (pages / name).write_text((lab.SOURCE / "man" / name).read_text())
    done = build_root.run("cd /pages && mandoc -T lint -W all * || true")
    # Whether other packages' pages are installed is no property of ours; that our own exist, a unit test shows.
    said = [
        line
        for line in (done.out + done.err).splitlines()
        if "referenced manual not found" not in line and "outdated mandoc.db" not in line
    ]
    assert said == []


def test_the_scripts_are_clean_shell(build_root: lab.Chroot) -> None:
    scripts = [
        lab.SOURCE / "etc/echosched.init",
        *(lab.SOURCE / "debian").glob("echosched.p*[mt]"),
        *(lab.SOURCE / "debian/tests").glob("[!c]*"),
    ]
    scripts.append(lab.SOURCE / "debian/tests/command")
    place = build_root.place / "scripts"
    place.mkdir()
    for script in scripts:
        (place / script.name).write_text(script.read_text().replace("#DEBHELPER#", ""))
    build_root.run("cd /scripts && shellcheck --shell=dash *")


def test_the_sysusers_and_tmpfiles_snippets_make_user_and_directories(build_root: lab.Chroot) -> None:
    place = build_root.place / "snippets"
    (place / "etc").mkdir(parents=True)
    for name in ("sysusers", "tmpfiles"):
        (place / f"echosched.{name}").write_text((lab.SOURCE / f"etc/echosched.{name}").read_text())
    build_root.run(
        "cd /snippets && systemd-sysusers --root=/snippets /snippets/echosched.sysusers"
        " && systemd-tmpfiles --root=/snippets --create /snippets/echosched.tmpfiles"
    )
    assert "echosched" in (place / "etc/passwd").read_text()
    listed = build_root.run(
        "cd /snippets && stat -c '%n %a' run/echosched var/lib/echosched var/log/echosched"
    ).out
    assert listed.splitlines() == ["run/echosched 750", "var/lib/echosched 750", "var/log/echosched 750"]

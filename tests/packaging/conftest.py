"""Fixtures of the packaging tests: the packages, and systems to install them on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip where no system can be booted; in CI that is a failure, not a skip."""
    if why := lab.missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI runs these tests as root with everything installed, but {why}")
        pytest.skip(why)


@pytest.fixture(scope="session")
def build_root(bootable: None) -> Iterator[lab.Chroot]:
    """A root with the build tools, the linters and the shells, not booted."""
    with lab.overlay(lab.root("build")) as place:
        yield lab.Chroot(place)


@pytest.fixture(scope="session")
def packages(build_root: lab.Chroot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what dpkg-buildpackage made, without a network and not as root."""
    home = build_root.place / "build"
    home.mkdir()
    lab.source_tree(home / "echosched")
    build_root.run(
        "chown -R nobody /build; cd /build/echosched;"
        " setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/build/home"
        " dpkg-buildpackage --no-sign > /build/build.log 2>&1 || { tail -n 100 /build/build.log; exit 1; }",
        timeout=400,
    )
    target = tmp_path_factory.mktemp("packages")
    for file in home.iterdir():
        if file.is_file():
            shutil.copy2(file, target / file.name)
    return target


@pytest.fixture(scope="session")
def debs(packages: Path) -> list[Path]:
    """The two binary packages."""
    return sorted(packages.glob("*.deb"))

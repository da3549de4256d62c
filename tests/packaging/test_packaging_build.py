"""dpkg-buildpackage, without a network and not as root, and what comes out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.root, pytest.mark.timeout(900)]


def test_the_build_gives_a_daemon_and_a_library(debs: list[Path]) -> None:
    assert [deb.name.split("_")[0] for deb in debs] == ["echosched", "python3-echosched"]

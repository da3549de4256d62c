"""What holds for all unit tests: files get the modes that the program gives them, whatever the caller's umask."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def usual_umask() -> Iterator[None]:
    """Tests compare modes, and what a stricter umask leaves of them says nothing of the program."""
    before = os.umask(0o022)
    yield
    os.umask(before)

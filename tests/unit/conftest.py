"""What holds for all unit tests: a machine may be slow, and its user may have any umask."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# On top of the profile that is there: Hypothesis has one of its own for CI, which knows no deadline either.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def usual_umask() -> Iterator[None]:
    """Tests compare modes, and what a stricter umask leaves of them says nothing of the program."""
    before = os.umask(0o022)
    yield
    os.umask(before)

"""What holds for all unit tests: the machine may be slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On top of the profile that is there: Hypothesis has one of its own for CI, which knows no deadline either.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

"""What ``doctor`` finds: one line each, with a cure where there is something to cure."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. *state*: ``ok``, ``warn`` (works, with a loss that is named), ``bad`` (will not work, or unsafe)."""

    check: str
    state: str
    finding: str
    cure: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return the JSON form."""
        return {"check": self.check, "state": self.state, "finding": self.finding, "cure": self.cure}


def ok(check: str, finding: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, OK, finding)


def warn(check: str, finding: str, cure: str) -> Finding:
    """Return a finding of something that works, but not as well as it could."""
    return Finding(check, WARN, finding, cure)


def bad(check: str, finding: str, cure: str) -> Finding:
    """Return a finding of something that will not work, or is unsafe."""
    return Finding(check, BAD, finding, cure)

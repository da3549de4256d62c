"""Messages to people, and pings to watchers: ``[notify.NAME]``.

The way of a message::

    event → decide (pure: which event makes which message, once per change of state)
          → notifier (keeps, bundles, retries until delivered, survives restarts)
          → one module for each kind: mail, webhook, healthchecks, apprise

Nothing here blocks the loop: HTTP is awaited, everything else runs in a thread or a child process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echosched.errors import EchoschedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echosched.model import Job
    from echosched.notify.notifier import Notifier

KINDS = ("mail", "webhook", "healthchecks", "apprise")

OCCASIONS = (
    "failure",  # a job fails or times out that was well before, or is parked; the store cannot be written
    "recovery",  # and succeeds again
    "missed",  # slots passed while nobody could run them
    "abandoned",  # a crash hid how a run ended
    "slow",  # a run takes much longer than this job's runs usually do
    "overdue",  # a slot passed and no run of the job has begun since
    "success",  # every run that succeeds
    "output",  # every run that prints something, with its output (cron's MAILTO)
)


class DeliveryError(EchoschedError):
    """A message could not be delivered; *final* when trying again cannot help."""

    code = "delivery"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def wanted(targets: Mapping[str, Any], jobs: Mapping[str, Job]) -> bool:
    """Tell whether a configuration needs a notifier at all (so that nothing is imported for nothing)."""
    return bool(targets) or any(job.policy.healthcheck for job in jobs.values())


__all__ = ["KINDS", "OCCASIONS", "DeliveryError", "Notifier", "wanted"]


def __getattr__(name: str) -> Any:
    if name == "Notifier":
        from echosched.notify.notifier import Notifier

        return Notifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

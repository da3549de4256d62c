"""Whether a failed attempt is tried again, and when."""

from __future__ import annotations

from datetime import timedelta

from echosched.model import Policy, State

RETRYABLE = frozenset({State.FAILED, State.TIMED_OUT})


def delay(policy: Policy, attempt: int, state: State, spread: float) -> timedelta | None:
    """Return how long to wait before the attempt after *attempt* (the first is 1), ``None``: no more.

    The delay grows by ``retry_backoff`` from ``retry_delay`` to at most ``retry_max_delay``. *spread* in
    [0, 1) shortens it by up to a tenth, so that jobs that failed together do not return together.
    """
    if state not in RETRYABLE or attempt > policy.retries:
        return None
    base = policy.retry_delay.total_seconds()
    ceiling = policy.retry_max_delay.total_seconds()
    # The exponent is bounded before it is used: 2.0 ** 5000 raises OverflowError.
    factor = policy.retry_backoff ** min(attempt - 1, 64)
    return timedelta(seconds=min(base * factor, ceiling) * (1 - spread / 10))

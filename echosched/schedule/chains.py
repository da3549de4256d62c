"""``after`` chains: which job waits for which, and circles among them."""

from __future__ import annotations

from collections.abc import Mapping

from echosched.errors import ScheduleError
from echosched.model import After, AfterWhen
from echosched.schedule.base import quoted

_WHEN = {str(when): when for when in AfterWhen}


def parse_after(text: str) -> After | None:
    """Return what ``after JOB`` or ``after JOB success|failure|any`` says, ``None`` for any other text."""
    words = text.split()
    if not words or words[0].lower() != "after":
        return None
    if len(words) not in (2, 3):
        raise ScheduleError(
            f"{quoted(text)}: must be after JOB, perhaps followed by one of {' '.join(_WHEN)}"
        )
    when = words[2].lower() if len(words) == 3 else "success"
    if when not in _WHEN:
        raise ScheduleError(f"{quoted(text)}: when must be one of {' '.join(_WHEN)}, not {quoted(words[2])}")
    return After(words[1], _WHEN[when])


def find_cycle(chain: Mapping[str, str]) -> list[str] | None:
    """Return the jobs of a circle in *chain* (job → the job it waits for), or ``None``.

    The circle starts with its alphabetically first job and does not repeat it at the end.
    """
    settled: set[str] = set()
    for start in chain:
        path: dict[str, None] = {}
        job: str | None = start
        while job is not None and job not in settled and job not in path:
            path[job] = None
            job = chain.get(job)
        if job is not None and job in path:
            names = list(path)
            circle = names[names.index(job) :]
            first = circle.index(min(circle))
            return circle[first:] + circle[:first]
        settled.update(path)
    return None

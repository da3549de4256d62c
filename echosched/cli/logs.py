"""``logs``: the journal as people read it, or as it lies."""

from __future__ import annotations

import sys
import time
from typing import Any

from echosched.cli import render
from echosched.cli.session import count_of, paths_of
from echosched.errors import EchoschedError, NotFound, PermissionRefused

POLL_SECONDS = 0.25


def logs(arguments: dict[str, Any]) -> int:
    """Show the last lines of the journal, and follow it if asked to."""
    paths = paths_of(arguments)
    shown = show(
        paths.out if arguments["--out"] else paths.log,
        count_of("-n", arguments["-n"]),
        follow=arguments["--follow"],
        raw=arguments["--json"] or not sys.stdout.isatty(),
        job=arguments["--job"],
        plain=arguments["--out"],
    )
    if shown == 0 and arguments["--job"] is not None:
        print(f"echoschedd: the journal has no event of job {arguments['--job']}", file=sys.stderr)
    return 0


def show(
    path: str, count: int, *, follow: bool, raw: bool, job: str | None = None, plain: bool = False
) -> int:
    """Print *path*: *raw* as it lies, else for people; *plain* text is never taken for NDJSON.

    Returns how many lines it printed.
    """
    from echosched import journal

    def keep(line: str) -> bool:
        event = journal.parse(line)
        return event is not None and event.get("job") == job

    def wait() -> bool:
        sys.stdout.flush()
        time.sleep(POLL_SECONDS)
        return True

    wanted = None if job is None or plain else keep
    try:
        lines = (
            journal.follow(path, wait, last=count, keep=wanted)
            if follow
            else journal.tail(path, count, keep=wanted)
        )
        count = 0
        for count, line in enumerate(lines, 1):  # noqa: B007  (counted after the loop)
            print(line if raw or plain else _readable(line))
        return count
    except FileNotFoundError:
        raise NotFound(f"{path}: there is no such file yet (echoschedd start makes it)") from None
    except OSError as error:
        if error.filename is None:
            raise  # not the file, but stdout
        if not isinstance(error, PermissionError):
            raise EchoschedError(f"{path}: {error.strerror}") from None
        raise PermissionRefused(f"{path}: {error.strerror} (ask as its user, or as root)") from None


def _readable(line: str) -> str:
    from echosched import journal

    event = journal.parse(line)
    if event is None:
        return render.clean(line)
    return render.paint(journal.human(event), _TONES.get(journal.tone(event)))


_TONES = {"good": "good", "bad": "bad", "odd": "warn"}  # the journal's words for how an event sounds

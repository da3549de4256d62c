"""``status --watch``: the daemon's condition, what runs and what comes, as time goes by.

One :class:`View` is made of what the daemon says, each second; how it is put on the screen depends on what
there is: rich's live display, a plain redrawn screen without rich, one block after another where stdout is no
terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from echosched.cli import render
from echosched.cli.status import lines
from echosched.clock import SystemClock, parse_rfc3339
from echosched.errors import EchoschedError

if TYPE_CHECKING:
    from echosched.config.paths import Paths

INTERVAL_SECONDS = 1.0
BLOCK_SECONDS = 5.0  # between blocks in a pipe: somebody reads them one after another
BAR = 20
MOST_ROWS = 12


@dataclass(frozen=True, slots=True)
class Running:
    """A run under way; *usual_seconds* is the median of its job's recent successes, if it has any."""

    job: str
    run: int
    attempt: int
    elapsed_seconds: float
    usual_seconds: float | None

    @property
    def share(self) -> float | None:
        """Return how much of the usual time has passed; above 1: it takes longer than usual."""
        return None if not self.usual_seconds else self.elapsed_seconds / self.usual_seconds

    @property
    def text(self) -> str:
        """Return the times: ``12s of usually 20s``, ``12s, 4.0s over the usual 8.0s``."""
        spent = render.seconds(self.elapsed_seconds)
        if self.usual_seconds is None:
            return spent
        usual = render.seconds(self.usual_seconds)
        over = self.elapsed_seconds - self.usual_seconds
        return (
            f"{spent} of usually {usual}"
            if over <= 0
            else f"{spent}, {render.seconds(over)} over the usual {usual}"
        )


@dataclass(frozen=True, slots=True)
class View:
    """What one look at the daemon shows."""

    document: dict[str, Any]
    running: Sequence[Running] = ()
    coming: Sequence[tuple[str, str]] = ()  # job, how long until its slot
    ended: Sequence[dict[str, Any]] = ()
    note: str = ""
    head: Sequence[str] = field(default=())


def watch(paths: Paths) -> int:
    """Show the daemon's condition until Ctrl-C; the exit code is what ``status`` would answer then."""
    look = Look(paths)
    interactive = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    views = look.views(INTERVAL_SECONDS if interactive else BLOCK_SECONDS)
    try:
        if not interactive:
            _blocks(views)
        elif find_spec("rich") is not None:
            from echosched.cli.pretty import live

            live(views)
        else:
            _screen(views)
    except KeyboardInterrupt:
        pass
    return look.code


class Look:
    """Asks the daemon, each time anew: it may come, go and come back while somebody watches."""

    def __init__(self, paths: Paths) -> None:
        self.code = 0
        self._paths = paths
        self._usual: dict[str, float | None] = {}

    def views(self, interval_seconds: float) -> Iterator[View]:
        """Yield a view now and every *interval_seconds*."""
        clock = SystemClock()
        while True:
            begun = clock.monotonic()
            yield self.view()
            time.sleep(max(0.0, interval_seconds - (clock.monotonic() - begun)))

    def view(self) -> View:
        """Return what can be seen now."""
        from echosched.control.client import ControlClient, full_status

        document = full_status(self._paths)
        self.code = int(document["lsb"])
        running: list[dict[str, Any]] = []
        ended: list[dict[str, Any]] = []
        note = ""
        if document["jobs"] is not None:
            try:
                with ControlClient(self._paths.socket, timeout=2.0) as client:
                    running = client.call("running")
                    ended = [row for row in client.call("history", n=MOST_ROWS) if row["ended_at"]]
                    self._learn(client.call, running)
            except EchoschedError as error:  # it is going down, or hangs: the next look will tell
                note = str(error)
        return make_view(document, running, ended, self._usual, SystemClock().now(), note)

    def _learn(self, call: Callable[..., Any], running: Sequence[dict[str, Any]]) -> None:
        """Ask for the usual duration of jobs that run, once for each time that they run."""
        jobs = {row["job"] for row in running}
        self._usual = {job: usual for job, usual in self._usual.items() if job in jobs}
        for row in running[:MOST_ROWS]:
            if row["job"] not in self._usual:
                self._usual[row["job"]] = call("run", run=row["run"])["usual_duration_seconds"]


def make_view(
    document: dict[str, Any],
    running: Sequence[dict[str, Any]],
    ended: Sequence[dict[str, Any]],
    usual: dict[str, float | None],
    now: datetime,
    note: str = "",
) -> View:
    """Return the view of what the daemon said, as of *now*."""
    return View(
        document=document,
        running=[
            Running(
                job=row["job"],
                run=row["run"],
                attempt=row["attempt"],
                elapsed_seconds=_since(row["started_at"], now),
                usual_seconds=usual.get(row["job"]),
            )
            for row in running[:MOST_ROWS]
        ],
        coming=[(slot["job"], _until(slot["at"], now)) for slot in document["next"]],
        ended=ended[:5],
        note=note or (f"and {len(running) - MOST_ROWS} more running" if len(running) > MOST_ROWS else ""),
        head=lines(document, coming=0),
    )


def _since(text: str | None, now: datetime) -> float:
    return 0.0 if text is None else max((now - parse_rfc3339(text)).total_seconds(), 0.0)


def _until(text: str, now: datetime) -> str:
    left = (parse_rfc3339(text) - now).total_seconds()
    return "now" if left <= 0 else f"in {render.seconds(round(left) if left >= 1 else left)}"


# ── plain ─────────────────────────────────────────────────────────────────────────────────────


def plain(view: View) -> list[str]:
    """Return *view* as lines of text."""
    shown = list(view.head)
    if view.running:
        shown += ["", render.paint("RUNNING", "bold")]
        width = max(len(row.job) for row in view.running)
        for row in view.running:
            tone = "warn" if row.share is not None and row.share > 1 else None
            attempt = f" attempt {row.attempt}" if row.attempt > 1 else ""
            text = f"  {render.clean(row.job):<{width}}  {bar(row.share)}  run {row.run}{attempt}, {row.text}"
            shown.append(render.paint(text, tone))
    if view.coming:
        shown += ["", render.paint("NEXT", "bold")]
        width = max(len(job) for job, _ in view.coming)
        shown += [f"  {render.clean(job):<{width}}  {left}" for job, left in view.coming]
    if view.ended:
        shown += ["", render.paint("ENDED", "bold")]
        width = max(len(row["job"]) for row in view.ended)
        now = SystemClock().now()
        shown += [_ended(row, width, now) for row in view.ended]
    return shown + ([view.note] if view.note else [])


def _ended(row: dict[str, Any], width: int, now: datetime) -> str:
    state = render.paint(f"{row['state']:<9}", render.STATE_TONES.get(row["state"]))
    error = f"  {render.clean(row['error'])}" if row["error"] else ""
    return f"  {render.clean(row['job']):<{width}}  {state}  {render.relative(row['ended_at'], now)}{error}"


def bar(share: float | None) -> str:
    """Return a progress bar: full and marked when the run takes longer than usual, dotted when nothing is known."""
    if share is None:
        return "[" + "·" * BAR + "]"
    if share > 1:
        return "[" + "#" * (BAR - 1) + "+]"
    done = int(share * BAR)
    return "[" + "#" * done + "-" * (BAR - done) + "]"


def _blocks(views: Iterator[View]) -> None:
    for number, view in enumerate(views):
        if number:
            print()
        for line in plain(view):
            print(line)
        sys.stdout.flush()


def _screen(views: Iterator[View]) -> None:
    """Redraw a screen of its own, and give the old one back."""
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the other screen, no cursor
    try:
        for view in views:
            size = shutil.get_terminal_size()
            shown = [_cut(line, size.columns) for line in plain(view)[: size.lines - 1]]
            # Home, each line cleared to its end, then what is left below: no flicker from clearing first.
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in shown) + "\x1b[J")
            sys.stdout.flush()
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _cut(line: str, columns: int) -> str:
    """Return *line* cut to the screen; colours take no room."""
    if "\x1b" not in line:
        return line[:columns]
    shown, room, at = "", columns, 0
    while at < len(line) and room > 0:
        if line[at] == "\x1b":
            end = line.index("m", at) + 1
            shown, at = shown + line[at:end], end
            continue
        shown, room, at = shown + line[at], room - 1, at + 1
    return shown + "\x1b[0m"

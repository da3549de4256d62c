"""Tables and the live view by rich: imported only where stdout is a terminal and rich is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from echosched.cli import render
from echosched.clock import SystemClock

if TYPE_CHECKING:
    from echosched.cli.watch import View

GAP = 2  # blanks between columns
FOLDED = 16  # what the last column needs
STYLES = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "bold": "bold"}


def console() -> Console:
    """Return the terminal; rich itself keeps to NO_COLOR and the terminal's width."""
    return Console(highlight=False, markup=False, emoji=False)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], tones: Sequence[str | None] = ()) -> bool:
    """Print *rows* under *header*, folded to the terminal's width; *tones* colours whole rows.

    Prints nothing and answers ``False`` where the terminal is too narrow for that: lines that the terminal
    wraps are read more easily than columns of three letters.
    """
    terminal = console()
    made = make_table(header, rows, tones)
    if sum(_widths(header, rows)) + GAP * (len(header) - 1) > terminal.width:
        return False
    terminal.print(made)
    return True


def make_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], tones: Sequence[str | None] = ()
) -> Table:
    """Return *rows* under *header*; only the last column gives way when the terminal is narrow."""
    made = _table()
    last = len(header) - 1
    for number, (title, width) in enumerate(zip(header, _widths(header, rows), strict=True)):
        made.add_column(title, no_wrap=number < last, overflow="fold", min_width=width)
    for number, row in enumerate(rows):
        tone = tones[number] if number < len(tones) else None
        made.add_row(*(_text(value, tone) for value in row))
    return made


def _table() -> Table:
    return Table(
        box=SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold"
    )


def _widths(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[int]:
    """Return how much room each column needs at least."""
    needed = [
        max([cell_len(title), *(cell_len(_text(row[number]).plain) for row in rows)])
        for number, title in enumerate(header)
    ]
    needed[-1] = min(needed[-1], FOLDED)
    return needed


def _text(value: object, tone: str | None = None) -> Text:
    # A Text, never a string: what a job is called must not be taken for rich's markup.
    return Text("" if value is None else render.clean(value), STYLES[tone] if tone else "")


def live(views: Iterator[View]) -> None:
    """Show each view in place of the one before, on a screen of its own, until the views or the reader end."""
    with Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as display:
        for view in views:
            display.update(compose(view), refresh=True)


def compose(view: View) -> RenderableType:
    """Return *view* as rich shows it."""
    parts: list[RenderableType] = [Text.from_ansi(line) for line in view.head]
    if view.running:
        parts += [Text(), _running(view)]
    if view.coming:
        parts += [Text(), make_table(["NEXT", ""], view.coming)]
    if view.ended:
        now = SystemClock().now()
        rows = [
            [row["job"], row["state"], render.relative(row["ended_at"], now), row["error"]]
            for row in view.ended
        ]
        tones = [render.STATE_TONES.get(row["state"]) for row in view.ended]
        parts += [Text(), make_table(["ENDED", "", "", ""], rows, tones)]
    parts.append(Text(view.note or "Ctrl-C leaves", "dim"))
    return Group(*parts)


def _running(view: View) -> Table:
    made = _table()
    for title in ("RUNNING", "", "RUN", "TIME"):
        made.add_column(title, no_wrap=True)
    for row in view.running:
        share = row.share
        late = share is not None and share > 1
        # Without any idea of the usual time the bar only shows that something moves.
        progress = ProgressBar(
            total=None if share is None else 1.0,
            completed=min(share or 0.0, 1.0),
            width=24,
            pulse=share is None,
            complete_style="yellow" if late else "green",
            finished_style="yellow" if late else "green",
        )
        attempt = f"{row.run} (attempt {row.attempt})" if row.attempt > 1 else str(row.run)
        made.add_row(_text(row.job), progress, attempt, _text(row.text, "warn" if late else None))
    return made


def status(head: Sequence[str], coming: Sequence[tuple[str, str, str]]) -> None:
    """Print the daemon's condition and a table of what comes."""
    terminal = console()
    for line in head:
        terminal.print(Text.from_ansi(line))
    if coming:
        terminal.print()
        terminal.print(make_table(["NEXT", "AT", ""], coming))

"""Pages of the built-in jobs: HTML that stands alone, and Markdown. Every value that comes in is escaped.

The HTML is well-formed XML as well, has no scripts and loads nothing; a policy in its head makes
sure of that even if something slipped through. Colours follow the reader's light or dark setting, all at
WCAG AA contrast (a test computes it).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo

Cell = str | int | float | None

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f4f6f8; --text: #1c2128; --dim: #57606a;
  --line: #d0d7de; --link: #0550ae; --good: #1a7f37; --bad: #b3261e; --odd: #8a5a00; --none: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --panel: #1d2229; --text: #e6edf3; --dim: #a3adb8;
  --line: #3a424c; --link: #79b8ff; --good: #4cc26a; --bad: #ff8178; --odd: #e0a83c; --none: #8b949e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; } .dim { color: var(--dim); }
.cards { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 1rem 0; list-style: none; }
.cards li { flex: 1 1 7rem; padding: .5rem .75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; }
.cards b { display: block; font-size: 1.4rem; line-height: 1.3; }
.scroll { overflow-x: auto; } .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--dim); padding: .25rem 0; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; } td { overflow-wrap: anywhere; min-width: 5.5rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { margin: .25rem 0 .75rem; padding: .5rem .75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .odd { color: var(--odd); }
svg { display: block; width: 100%; min-width: 34rem; height: auto; }
svg text { fill: var(--text); font-size: 13px; } svg .dim { fill: var(--dim); }
svg .good { fill: var(--good); } svg .bad { fill: var(--bad); } svg .odd { fill: var(--odd); }
svg .none { fill: var(--none); } svg .rule { stroke: var(--line); stroke-width: 1; }
summary { cursor: pointer; color: var(--link); padding: .3rem 0; }
footer { margin-top: 2rem; color: var(--dim); font-size: .9rem; }
@media (max-width: 40rem) { .wide thead { position: absolute; left: -9999px; } .wide tr { display: block;
  padding: .5rem 0; border-bottom: 1px solid var(--line); } .wide td, .wide td.n { display: flex; gap: 1rem;
  justify-content: space-between; padding: .1rem 0; border: 0; text-align: right; white-space: normal; }
  .wide td::before { content: attr(data-label); color: var(--dim); text-align: left; white-space: nowrap; }
  .wide td:first-child { font-weight: 600; text-align: left; } .wide td:first-child::before { content: none; } }
"""


def clean(text: str) -> str:
    """Return *text* without characters that move cursors, turn directions or are not allowed in XML."""
    return "".join(ch if ch.isprintable() or ch in "\n\t" else "\ufffd" for ch in text)


def esc(value: Cell) -> str:
    """Return *value* as HTML text, safe also inside a quoted attribute."""
    return html.escape(clean("–" if value is None else str(value)), quote=True)


def page(title: str, subtitle: str, body: Iterable[str], footer: str) -> str:
    """Return a whole HTML document around *body* (HTML pieces)."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en" xmlns="http://www.w3.org/1999/xhtml">',
            "<head>",
            '<meta charset="utf-8" />',
            '<meta name="viewport" content="width=device-width, initial-scale=1" />',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />",
            f"<title>{esc(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{esc(title)}</h1>",
            f'<p class="dim">{esc(subtitle)}</p>',
            *body,
            "</main>",
            f"<footer>{esc(footer)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def cards(figures: Iterable[tuple[str, Cell, str]]) -> str:
    """Return big figures: (name, value, class of colour or empty)."""
    items = "".join(
        f'<li><b class="{tone}">{esc(value)}</b>{esc(name)}</li>'
        if tone
        else f"<li><b>{esc(value)}</b>{esc(name)}</li>"
        for name, value, tone in figures
    )
    return f'<ul class="cards">{items}</ul>' if items else ""


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], right: Sequence[int] = ()
) -> str:
    """Return an HTML table; columns in *right* hold figures.

    On a phone a table of many columns becomes a list of rows with a name before each value.
    """
    wide = len(heads) > 4

    def mark(column: int) -> str:
        return ' class="n"' if column in right else ""

    def label(column: int) -> str:
        return f' data-label="{esc(heads[column])}"' if wide else ""

    head = "".join(f'<th scope="col"{mark(i)}>{esc(text)}</th>' for i, text in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{mark(i)}{label(i)}>{esc(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    kind = ' class="wide"' if wide else ""
    return (
        f'<div class="scroll" role="region" aria-label="{esc(caption)}" tabindex="0"><table{kind}>'
        f"<caption>{esc(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pre(text: str) -> str:
    """Return *text* as it was printed."""
    return f"<pre>{esc(text)}</pre>"


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────

_MARKS = re.compile(r"([\\`*_\[\]|~#!])")


def md(value: Cell) -> str:
    """Return *value* as Markdown text that means nothing but itself, on one line."""
    text = " ".join(clean("–" if value is None else str(value)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", text)


def md_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table."""
    rule = "|".join(" ---: " if i in right else " --- " for i in range(len(heads)))
    lines = ["| " + " | ".join(md(text) for text in heads) + " |", f"|{rule}|"]
    lines += ["| " + " | ".join(md(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def md_pre(text: str) -> str:
    """Return *text* as a fenced block that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{clean(text)}\n{fence}\n"


# ── values for people ─────────────────────────────────────────────────────────────────────────


def when(instant: datetime | None, zone: tzinfo | None = None) -> str:
    """Return *instant* in UTC to the second, with the local time of *zone* behind it if there is one."""
    if instant is None:
        return "–"
    text = f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if zone is not None:
        text += f" ({instant.astimezone(zone):%a %H:%M} {zone})"
    return text


def lasting(seconds: float | None) -> str:
    """Return a duration as people write it."""
    if seconds is None:
        return "–"
    for limit, unit, divisor in ((0.9995, "ms", 0.001), (59.95, "s", 1.0), (3570.0, "min", 60.0)):
        if abs(seconds) < limit:
            return f"{seconds / divisor:.0f} ms" if unit == "ms" else f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

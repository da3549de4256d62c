"""The named queries of ``sql/queries.sql``, and how to run one for many rows in few steps.

Python's sqlite3 releases the interpreter lock before each step of a statement and takes it back
afterwards; when the event loop is busy, taking it back can cost 5 ms. A thousand rows through
``executemany`` beside a busy loop were measured at 1.5 to 7 s, in one statement at 14 to 40 ms.
Hence: writes of many rows are one ``VALUES`` list, reads come back as one JSON document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite3 import Connection

SQL_DIRECTORY = Path(__file__).with_name("sql")
_HEADING = re.compile(r"^-- name: (\w+)(?: \((\d+)\))?$")
_SIZES = (512, 128, 32, 8, 2, 1)  # few different statements, so that they stay prepared


@cache
def _library(file: str = "queries.sql") -> dict[str, tuple[str, int]]:
    """Return every named query of *file* and the width of its rows (0: it takes no rows)."""
    found: dict[str, tuple[str, int]] = {}
    name, width, lines = "", 0, list[str]()
    for line in [*(SQL_DIRECTORY / file).read_text("utf-8").splitlines(), "-- name: end"]:
        if heading := _HEADING.match(line):
            if name:
                found[name] = ("\n".join(lines).strip(), width)
            name, width, lines = heading[1], int(heading[2] or 0), []
        elif not line.startswith("--"):
            lines.append(line)
    return found


@cache
def query(name: str, columns: str = "") -> str:
    """Return the text of the query *name*, with *columns* put in where it asks for them."""
    return _library()[name][0].replace("{columns}", columns)


@cache
def postgres_query(name: str, columns: str = "") -> str:
    """Return the text of a query of the PostgreSQL store."""
    return _library("postgres_queries.sql")[name][0].replace("{columns}", columns)


@cache
def _for_rows(name: str, count: int) -> str:
    text, width = _library()[name]
    row = "(" + ", ".join("?" * width) + ")"
    return text.replace("{rows}", ", ".join([row] * count))


def _pieces(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    begin, count = 0, len(rows)
    for size in _SIZES:
        while count - begin >= size:
            yield rows[begin : begin + size]
            begin += size


def write_rows(connection: Connection, name: str, rows: Sequence[Sequence[Any]]) -> int:
    """Run the writing query *name* for all *rows*; return how many rows it changed."""
    before = connection.total_changes  # rowcount stays -1 for a statement that begins with WITH
    for piece in _pieces(rows):
        parameters = [value for row in piece for value in row]
        connection.execute(_for_rows(name, len(piece)), parameters)
    return connection.total_changes - before


def read_rows(connection: Connection, name: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Run the query *name*, which answers with one JSON list, for all *rows*; return the joined list."""
    answer: list[Any] = []
    for piece in _pieces(rows):
        parameters = [value for row in piece for value in row]
        answer += json.loads(connection.execute(_for_rows(name, len(piece)), parameters).fetchone()[0])
    return answer


def read_all(
    connection: Connection,
    text: str,
    columns: Sequence[str],
    parameters: Sequence[Any] | Mapping[str, Any] = (),
) -> list[list[Any]]:
    """Return all rows of the select *text* (whose result has *columns*), fetched in one step."""
    packed = f"SELECT json_group_array(json_array({', '.join(columns)})) FROM ({text})"  # noqa: S608 — our own names
    rows: list[list[Any]] = json.loads(connection.execute(packed, parameters).fetchone()[0])
    return rows

"""retention: what goes, what stays, what is told."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from echosched.builtin import load
from echosched.builtin.retention import slots_before
from echosched.errors import ExecutionError
from echosched.events import RetentionDone, RetentionStart
from echosched.model import Pruned


async def test_rows_go_in_batches_and_their_outputs_with_them(make, rows, tmp_path):
    context = make()
    for number in range(1, 6):
        context.output_path(number, 1).write_bytes(b"x" * 100)
    rows.prunings = [
        Pruned(runs=200, slots=150, outputs=((1, 1), (2, 1))),
        Pruned(runs=3, slots=0, outputs=((3, 1), (77, 1))),
    ]
    answer = await load("retention")(context)
    assert answer == {"runs": 203, "slots": 150, "outputs": 3, "reports": 0, "journals": 0, "bytes": 300}
    assert sorted(p.name for p in context.runs_dir.iterdir()) == ["4.1.out", "5.1.out"]
    assert len(rows.asked) == 3
    assert rows.asked[0]["runs_before"] == context.clock.now() - timedelta(days=30)
    assert rows.asked[0]["keep"] == 1000
    start, done = make.events
    assert isinstance(start, RetentionStart)
    assert isinstance(done, RetentionDone)
    assert (done.runs, done.slots, done.outputs, done.bytes) == (203, 150, 3, 300)
    assert "runs: 203\n" in "".join(make.output)


async def test_emptied_directories_of_outputs_go_but_not_the_newest(make):
    context = make()
    for number in ("000", "001", "002", "003", "010", "999", "1000"):
        (context.runs_dir / number).mkdir()
    (context.runs_dir / "mine").mkdir()
    (context.runs_dir / "001" / "1500.1.log").touch()
    await load("retention")(context)
    assert sorted(p.name for p in context.runs_dir.iterdir()) == ["001", "010", "1000", "999", "mine"]


async def test_old_reports_go_and_latest_and_foreign_files_stay(make, tmp_path):
    context = make()
    old = context.clock.now().timestamp() - 40 * 86400
    for name in (
        "brief-2026-09-01T080000Z.md", "brief-2026-09-01T080000Z.html", "report-2026-09-01.html",
        ".brief.md.part", "brief.md", "notes.txt", "report-mine.md",
    ):  # fmt: skip
        (context.reports_dir / name).write_text("x")
        os.utime(context.reports_dir / name, (old, old))
    (context.reports_dir / "brief-2026-11-20T080000Z.md").write_text("x")
    young = context.clock.now().timestamp() - 86400
    os.utime(context.reports_dir / "brief-2026-11-20T080000Z.md", (young, young))
    answer = await load("retention")(context)
    assert answer["reports"] == 4
    assert {p.name for p in context.reports_dir.iterdir()} == {
        "brief.md", "notes.txt", "report-mine.md", "brief-2026-11-20T080000Z.md"
    }  # fmt: skip


async def test_rotated_journals_beyond_log_keep_go(make, tmp_path):
    for name in ("j.log", "j.log.1", "j.log.2", "j.log.3", "j.log.10.gz", "j.log.bak", "other.log.9"):
        (tmp_path / name).write_text("abc")
    answer = await load("retention")(make(journal=tmp_path / "j.log", log_keep=2))
    assert answer["journals"] == 2
    assert answer["bytes"] == 6
    left = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert left == {"j.log", "j.log.1", "j.log.2", "j.log.bak", "other.log.9"}


def test_slot_rows_stay_well_past_the_longest_catch_up_window(make):
    now = make().clock.now()
    assert slots_before(now, []) == now - timedelta(days=3)
    windows = [timedelta(hours=24), timedelta(days=10)]
    assert slots_before(now, windows) == now - timedelta(days=23)


async def test_a_store_that_fails_is_the_runs_reason(make, rows):
    rows.broken = True
    with pytest.raises(ExecutionError, match=r"retention: echosched\.db: disk I/O error"):
        await load("retention")(make())

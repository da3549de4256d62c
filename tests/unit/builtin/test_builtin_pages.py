"""brief and report: what they say, and that nothing hostile gets through."""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from echosched.builtin import load
from echosched.builtin.files import write_whole
from echosched.builtin.page import STYLE, lasting, md, md_pre, md_table
from echosched.errors import ExecutionError
from echosched.model import State

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>|`x`*b*[l](javascript:1)&amp;\x1b[2J\u202e\"'>"


async def test_a_brief_tells_what_ran_what_failed_and_what_comes(make, rows, a_run, a_job, tmp_path):
    rows.runs = [
        a_run(1, "backup"),
        a_run(2, "backup", State.FAILED, exit_code=3, output_bytes=40),
        a_run(3, "mail", State.TIMED_OUT, error="no end within 30 s"),
        a_run(4, "old", queued_at=NOW - timedelta(hours=25)),
        a_run(5, "slow", State.RUNNING, ended_at=None),
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "2.1.out").write_text("first\npg_dump: connection refused\n")
    jobs = {"backup": a_job("backup", timezone="Europe/Berlin")}
    context = make(jobs=jobs, next_slots=lambda a, b: [("backup", NOW + timedelta(hours=17))])
    answer = await load("brief")(context)
    assert (answer["runs"], answer["succeeded"], answer["failed"], answer["coming"]) == (4, 1, 2, 1)
    text = (tmp_path / "reports" / "brief-2026-11-21T080000Z.md").read_text()
    assert "pg_dump: connection refused" in text
    assert "no end within 30 s" in text
    assert "exit code 3" in text
    assert "2026-11-22 01:00:00 UTC (Sun 02:00 Europe/Berlin)" in text
    assert "old" not in text
    assert "".join(make.output) == text
    assert (tmp_path / "reports" / "brief.md").read_text() == text
    assert (tmp_path / "reports" / "brief.html").stat().st_mode & 0o777 == 0o640


async def test_secrets_in_errors_and_outputs_are_masked(make, rows, a_run, tmp_path):
    secret = "correct-horse-battery"
    rows.runs = [a_run(1, "a", State.FAILED, error=f"login {secret} refused", output_bytes=9)]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.1.out").write_text("." * 100 + secret + "x" * (8 * 1024 - 10))
    for name in ("brief", "report"):
        await load(name)(make(redact=lambda text: text.replace(secret, "[secret]")))
    for path in (tmp_path / "reports").iterdir():
        assert "horse" not in path.read_text()
        assert "battery" not in path.read_text()
    assert "login \\[secret\\] refused" in (tmp_path / "reports" / "brief.md").read_text()


async def test_a_brief_of_an_empty_day_says_so(make, tmp_path):
    await load("brief")(make())
    text = (tmp_path / "reports" / "brief.md").read_text()
    assert "No runs in the last 24 hours; 0 slots in the next 24." in text
    assert "Nothing ran." in text
    assert "Nothing is due." in text


async def test_the_same_failure_many_times_is_one_entry(make, rows, a_run, tmp_path):
    rows.runs = [a_run(n, "flaky", State.FAILED, error="refused") for n in range(2001, 3300)]
    answer = await load("brief")(make())
    assert answer["failed"] == 1299
    text = (tmp_path / "reports" / "brief.md").read_text()
    assert text.count("refused") == 1
    assert "1299 times, last" in text
    assert rows.pages == 3


async def test_a_million_coming_slots_do_not_hold_up_the_brief(make, a_job):
    def every_moment(start, end):
        while True:
            start += timedelta(milliseconds=1)
            yield "busy", start

    answer = await load("brief")(make(jobs={"busy": a_job("busy")}, next_slots=every_moment))
    assert answer["coming"] == 20_000


async def test_a_report_covers_exactly_yesterday_in_utc(make, rows, a_run, tmp_path):
    midnight = NOW.replace(hour=0)
    rows.runs = [
        a_run(1, "before", queued_at=midnight - timedelta(days=1, microseconds=1)),
        a_run(2, "first", queued_at=midnight - timedelta(days=1)),
        a_run(3, "last", queued_at=midnight - timedelta(microseconds=1)),
        a_run(4, "after", queued_at=midnight),
    ]
    answer = await load("report")(make())
    assert answer["day"] == "2026-11-20"
    assert answer["runs"] == 2
    text = (tmp_path / "reports" / "report-2026-11-20.md").read_text()
    assert "first" in text
    assert "last" in text
    assert "before" not in text
    assert "after" not in text


async def test_a_report_says_100_percent_only_when_it_is_true(make, rows, a_run, tmp_path):
    yesterday = NOW - timedelta(hours=20)
    rows.runs = [a_run(n, queued_at=yesterday) for n in range(1, 2001)]
    rows.runs.append(a_run(2001, "b", State.FAILED, exit_code=1, queued_at=yesterday))
    await load("report")(make())
    assert "99.9 % of those that ran succeeded" in (tmp_path / "reports" / "report.md").read_text()


async def test_a_report_has_figures_and_plots(make, rows, a_run, tmp_path):
    yesterday = NOW - timedelta(hours=20)
    rows.runs = [a_run(n, f"job{n % 3}", queued_at=yesterday, took=n, lag=n / 1000) for n in range(1, 31)]
    rows.runs.append(a_run(31, "job1", State.FAILED, exit_code=1, queued_at=yesterday))
    await load("report")(make())
    text = (tmp_path / "reports" / "report.html").read_text()
    assert text.count("<svg") == 4
    assert "12:00 UTC: 30 succeeded" in text
    assert "12:00 UTC: 1 went wrong" in text
    assert "96.7 % of those that ran succeeded" in text
    assert "<script" not in text
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert root.tag.endswith("html")


@pytest.mark.parametrize("name", ["brief", "report"])
async def test_hostile_names_errors_and_outputs_stay_text(make, rows, a_run, a_job, tmp_path, name):
    at = NOW - timedelta(hours=10)
    rows.runs = [
        a_run(1, HOSTILE, State.FAILED, error=HOSTILE, queued_at=at, output_bytes=9),
        a_run(2, HOSTILE, queued_at=at),
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.1.out").write_bytes(b"```\n</pre><img src=x onerror=alert(1)>\xff\x00\n````\n")
    context = make(
        jobs={HOSTILE: a_job(HOSTILE)}, next_slots=lambda a, b: [(HOSTILE, NOW + timedelta(hours=1))]
    )
    await load(name)(context)
    page = (tmp_path / "reports" / f"{name}.html").read_text()
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>"))  # well-formed, so nothing broke out
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "img", "a", "iframe", "object", "link", "form"}
    assert not [a for e in root.iter() for a in e.attrib if a.startswith("on")]
    assert "alert(1)" in "".join(root.itertext())
    text = (tmp_path / "reports" / f"{name}.md").read_text()
    assert "<script>" not in text
    assert "\x1b" not in text + page
    assert "\u202e" not in text + page


def test_markdown_text_means_nothing_but_itself():
    assert md("a|b\n*c* `d` <e> [f](g) # h ~i~ !j") == (r"a\|b \*c\* \`d\` &lt;e&gt; \[f\](g) \# h \~i\~ \!j")
    assert md_table(("a", "b"), [("x|y", 1)], (1,)).splitlines() == [
        "| a | b |", "| --- | ---: |", r"| x\|y | 1 |"
    ]  # fmt: skip
    assert md_pre("````\nx").startswith("`````text\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0 ms"), (0.0123, "12 ms"), (1.04, "1.0 s"), (59.96, "1.0 min"), (7200, "2.0 h")],
)
def test_durations_read_well(seconds, text):
    assert lasting(seconds) == text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_all_colours_meet_wcag_aa_in_light_and_dark():
    schemes = re.findall(r":root \{[^}]*\}", STYLE)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for ground in ("ground", "panel"):
            for ink, least in {
                "text": 4.5,
                "dim": 4.5,
                "link": 4.5,
                "good": 4.5,
                "bad": 4.5,
                "odd": 4.5,
                "none": 3,
            }.items():
                one, two = sorted((luminance(colours[ink]), luminance(colours[ground])))
                assert (two + 0.05) / (one + 0.05) >= least, f"{ink} on {ground} {colours}"


class Structure(HTMLParser):
    """Checks what an HTML checker would complain about first."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.problems.append(f"{tag}: attribute twice")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("td", "th") and "tr" not in self.open:
            self.problems.append(f"{tag} outside a row")

    def handle_startendtag(self, tag, attrs):
        if tag not in ("meta", "line", "br"):
            self.problems.append(f"<{tag}/> is not a void element")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")


@pytest.mark.parametrize("name", ["brief", "report"])
async def test_pages_are_valid_and_load_nothing(make, rows, a_run, tmp_path, name):
    at = NOW - timedelta(hours=10)
    rows.runs = [a_run(n, f"job{n}", State.FAILED, error="x", queued_at=at) for n in range(1, 30)]
    await load(name)(make())
    page = (tmp_path / "reports" / f"{name}.html").read_text()
    structure = Structure()
    structure.feed(page)
    assert structure.problems == []
    assert structure.open == []
    assert structure.headings[0] == 1
    assert structure.headings.count(1) == 1
    assert 'name="viewport"' in page
    assert 'lang="en"' in page
    loads = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert loads == []


@pytest.mark.parametrize("name", ["brief", "report"])
async def test_a_store_that_fails_is_the_runs_reason(make, rows, name):
    rows.broken = True
    with pytest.raises(ExecutionError, match=f"{name}: echosched.db: disk I/O error"):
        await load(name)(make())


async def test_reports_that_cannot_be_written_are_the_runs_reason(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExecutionError, match="cannot be written"):
        await load("brief")(make(reports_dir=tmp_path / "file"))


def test_an_unknown_builtin_is_named():
    with pytest.raises(ExecutionError, match="'breif' is none"):
        load("breif")


def test_two_runs_may_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    texts = [f"{n}" * 20_000 for n in range(8)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "brief.md", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "brief.md").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["brief.md"]

"""How it looks: screenshots at phone and desktop width, light and dark; contrast and overflow measured.

Pictures go to ``artefacts/web/``; with ``ECHOSCHED_SCREENSHOT=1`` the README's is renewed too.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched.model import Claim, Ended, JobRecord, Result, Started, State, Trigger
from echosched.store.sqlite import SqliteStore

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "artefacts" / "web"

CONFIG = """
timezone = "UTC"
[daemon]
grace = "1s"
[job.backup]
description = "Dump the shop's database to the vault"
schedule = "30 */3 * * *"
command = "pg_dump shop | gzip > /vault/shop.gz"
[job.thumbnails]
description = "Make thumbnails of new uploads"
schedule = "every 20m"
command = "echo made 12 thumbnails"
[job.mail-digest]
description = "Send the digest to subscribers"
schedule = "Mon..Sun 08:00 Europe/Berlin"
command = "echo sent"
labels = ["mail"]
[job.catalogue-sync]
description = "Mirror the supplier's catalogue"
schedule = "0 * * * *"
command = "for i in $(seq 1 400); do echo page $i of 400; sleep 0.2; done"
[job.invoices]
description = "Write and send the day's invoices"
schedule = "0 4 * * *"
command = "echo 38 invoices"
[job.health-probe]
description = "Ask the shop whether it is well"
schedule = "every 10m"
[job.health-probe.http]
url = "http://127.0.0.1:9/healthz"
[job.certs]
description = "Renew certificates"
schedule = "17 3 * * Sun"
command = "echo nothing to renew"
[job.search-index]
description = "Rebuild the search index"
schedule = "15 */2 * * *"
command = "echo rebuilt"
[job.brief]
description = "What ran, what failed, what comes"
schedule = "0 8 * * *"
builtin = "brief"
[job.report]
description = "Yesterday in figures and plots"
schedule = "5 0 * * *"
builtin = "report"
[job.selfheal]
description = "Look after database, files and disk"
schedule = "every 6h"
builtin = "selfheal"
"""

# job: minutes between slots, usual seconds, how often it fails, why
HABITS = {
    "backup": (180, 140, 0.0, ""),
    "thumbnails": (20, 14, 0.02, "exit code 1"),
    "catalogue-sync": (60, 80, 0.04, "exit code 75"),
    "health-probe": (10, 0.2, 0.05, "HTTP: status 503, expected 2xx"),
    "search-index": (120, 260, 0.0, ""),
    "selfheal": (360, 0.4, 0.0, ""),
    "mail-digest": (1440, 33, 0.0, ""),
    "invoices": (1440, 61, 0.0, ""),
}


async def write_history(home: Path, now: datetime) -> int:
    """Write a day of runs into the store, as the scheduler would have; return the run that failed last."""
    dice = random.Random(7)
    slots = []
    for job, (minutes, usual, odds, why) in HABITS.items():
        first = now - timedelta(minutes=dice.randrange(3, min(minutes, 600) + 3))
        for n in range(24 * 60 // minutes + 1):
            slot = first - timedelta(minutes=minutes * n)
            if slot > now - timedelta(hours=24):
                slots.append((slot, job, usual * dice.uniform(0.7, 1.35), dice.random() < odds, why, n == 0))
    store = SqliteStore(home / "echosched.db", owner="shop:812")
    await store.open()
    await store.save_jobs(JobRecord(name=job, cursor_at=now) for job in HABITS)
    broken = 0
    for slot, job, seconds, bad, why, newest in sorted(slots):
        [run] = await store.claim([Claim(job, slot, Trigger.SCHEDULE, State.RUNNING, slot)])
        began = slot + timedelta(milliseconds=dice.uniform(0.3, 4))
        ended = began + timedelta(seconds=seconds)
        store.started([Started(run, 1, began)])
        result = Result(State.SUCCEEDED, exit_code=0, output_bytes=120)
        if job == "backup" and newest:
            result = Result(State.FAILED, exit_code=1, error="exit code 1", output_bytes=140)
            broken = run
        elif bad:
            result = Result(State.FAILED, exit_code=1, error=why, output_bytes=90)
        await store.finish([Ended(run, job, 1, min(ended, now), result)])
    await store.close()
    output = home / "runs" / f"{broken // 1000:03d}" / f"{broken}.1.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        "dumping database shop\n  12,204 orders\n  88,117 items\n"
        "gzip: /vault/shop.gz: No space left on device\npg_dump: error: could not write to output file: Broken pipe\n"
    )
    return broken


@pytest.fixture
def shop(instance, until, aside):
    """An instance with a day behind it."""
    instance.configure(CONFIG)
    now = datetime.now(UTC).replace(microsecond=0)
    instance.broken = aside(write_history(instance.home, now))
    instance.cli("start")
    instance.serve()
    running = instance.post("/api/jobs/catalogue-sync/run")["run"]
    until(lambda: instance.get(f"/api/runs/{running}")["data"]["state"] == "running")
    instance.running = running
    instance.post("/api/jobs/certs/pause")
    return instance


CONTRAST = Path(__file__).with_name("contrast.js").read_text()

NAMELESS = """
() => [...document.querySelectorAll("button, a, input, [role=link], [role=img], table, svg[role]")]
  .filter((e) => e.getClientRects().length)
  .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.closest("label")))
  .map((e) => e.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width", "height"), [("desktop", 1280, 1000), ("phone", 390, 844)])
def test_pages_are_legible_and_fit(shop, eyes, device, width, height, scheme):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = eyes.open(shop, width=width, height=height, scheme=scheme)
    # Where it is, its heading, and what is there once all that was asked for has come.
    views = {
        "overview": ("#/", "Overview", ["section.attention .last", "table.jobs tbody tr", ".mark"]),
        "run": (f"#/run/{shop.broken}", f"backup #{shop.broken}", ["pre.output:has-text('No space left')"]),
        "live": (
            f"#/run/{shop.running}",
            f"catalogue-sync #{shop.running}",
            ["pre.output:has-text('page 1 ')"],
        ),
        "job": ("#/job/health-probe", "health-probe", ["table.runs tbody tr"]),
        "runs": ("#/runs", "Runs", ["table.runs tbody tr"]),
        "journal": ("#/journal", "Journal", ["table.journal tbody tr"]),
    }
    for name, (where, heading, signs) in views.items():
        page.goto(f"{shop.url}/dashboard{where}")
        page.locator("main h1", has_text=heading).wait_for(timeout=60_000)
        for sign in signs:
            page.locator(sign).first.wait_for(timeout=60_000)
        page.wait_for_timeout(100)
        page.screenshot(path=PICTURES / f"{name}-{device}-{scheme}.png", full_page=True)
        look(page, name)
    shop.cli("stop")
    page.goto(f"{shop.url}/dashboard#/")
    page.locator("#health[data-health=stopped]").wait_for(timeout=60_000)
    page.locator("table.jobs").wait_for()
    page.screenshot(path=PICTURES / f"stopped-{device}-{scheme}.png")
    look(page, "stopped")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Dashboard key").wait_for()
    page.screenshot(path=PICTURES / f"key-{device}-{scheme}.png")
    look(page, "key")


def look(page, name):
    assert page.evaluate(CONTRAST) == [], name
    assert page.evaluate(NAMELESS) == [], name
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert too_wide <= 0, f"{name} is {too_wide} px wider than the screen"


if os.environ.get("ECHOSCHED_SCREENSHOT"):  # renews docs/img/dashboard.png: only when asked

    def test_the_picture_of_the_readme(shop, eyes):
        page = eyes.open(shop, width=1280, height=1100)
        page.locator("section.attention .last").first.wait_for(timeout=40_000)
        page.locator("progress").first.wait_for(timeout=40_000)
        page.wait_for_timeout(6000)
        target = ROOT / "docs" / "img" / "dashboard.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=target)

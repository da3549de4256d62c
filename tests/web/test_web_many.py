"""Thousands of jobs: the table shows a page of them, whole, and finds the others."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
JOBS = 2000
SOON = 60_000


@pytest.fixture
def many(instance):
    """A scheduler with 2,000 jobs, one of which fails."""
    jobs = [
        f'[job.job-{n:04}]\nlabels = ["l{n % 7}"]\nschedule = "0 0 1 1 *"\ncommand = "exit 3"\n'
        if n == 1777
        else f'[job.job-{n:04}]\nschedule = "{n % 60} {n % 24} * * *"\ncommand = "true"\n'
        for n in range(JOBS)
    ]
    instance.configure('timezone = "UTC"\n[daemon]\ntick = "0"\n' + "".join(jobs))
    instance.cli("start")
    instance.serve()
    for name in ("job-0003", "job-0003", "job-1777", "job-1999"):
        instance.ended(instance.post(f"/api/jobs/{name}/run")["run"])
    return instance


def test_a_page_of_two_thousand_jobs_has_sparklines_finds_and_filters(many, eyes):
    from playwright.sync_api import expect

    expect.set_options(timeout=SOON)
    page = eyes.open(many)
    rows = page.locator("table.jobs tbody tr")
    expect(page.locator("#jobs-head")).to_have_text("Jobs (2,000)")
    expect(rows).to_have_count(100)
    # What failed comes first, with its bars, and stands among what needs attention.
    expect(rows.first).to_have_attribute("data-key", "job-1777")
    expect(rows.first.locator("svg.spark")).to_have_count(1)
    expect(page.locator("section.attention li")).to_have_count(1)
    page.get_by_role("button", name="Show 200 more").click()
    expect(rows).to_have_count(300)
    page.get_by_role("searchbox").fill("JOB-199")
    expect(rows).to_have_count(10)
    last = page.locator("tr[data-key='job-1999']")
    expect(last.locator("svg.spark g")).to_have_count(1)
    expect(page.locator("tr[data-key='job-0003']")).to_have_count(0)
    page.get_by_role("searchbox").fill("no such thing")
    page.get_by_role("button", name="Show all jobs").click()
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Failing 1").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="All 2,000").click()
    page.get_by_role("button", name="Job", exact=True).click()
    expect(rows.first).to_have_attribute("data-key", "job-0000")
    page.get_by_role("button", name="Job").and_(page.locator(".sort")).first.click()
    expect(rows.first).to_have_attribute("data-key", "job-1999")
    page.get_by_role("button", name="Run now job-1998").click()
    page.locator("tr[data-key='job-1998'] svg.spark").wait_for()


def test_the_api_pages_and_costs_the_page_not_the_whole(many):
    first = many.get("/api/jobs?limit=100")
    assert (len(first["data"]), first["total"], first["found"]) == (100, 2000, 2000)
    assert first["counts"] == {"all": 2000, "failing": 1, "running": 0, "paused": 0}
    assert len(json.dumps(first)) < 150_000
    by_hand = [job for job in first["data"] if job["name"] == "job-0003"]
    assert [run["state"] for run in by_hand[0]["recent"]] == ["succeeded", "succeeded"]
    seen, after = [], ""
    while after is not None:
        page = many.get(f"/api/jobs?limit=900&recent=0&after={after}")
        seen += [job["name"] for job in page["data"]]
        after = page["next"]
    assert seen == [f"job-{n:04}" for n in range(JOBS)]
    assert [job["name"] for job in many.get("/api/jobs?only=failing&sort=trouble&down=1")["data"]] == [
        "job-1777"
    ]
    assert [job["name"] for job in many.get("/api/jobs?q=L6")["data"]] == ["job-1777"]
    assert many.get("/api/jobs?offset=1990&recent=0")["data"][0]["name"] == "job-1990"

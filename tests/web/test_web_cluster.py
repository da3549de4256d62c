"""The dashboard and /metrics on a host that has others."""

from __future__ import annotations

import re
import urllib.request

import pytest

from tests.postgres import PostgresServer

pytestmark = [pytest.mark.browser, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]
SOON = 60_000

JOBS = """
[cluster]
dsn = '''{dsn}'''
instance = "{name}"
labels = ["eu"]
[job.long]
schedule = "* * * * * *"
overlap = "allow"
command = "sleep 2"
[job.hello]
schedule = "@yearly"
command = "echo {word}"
"""


def test_the_instances_are_shown_with_what_they_run_and_metrics_count_them(
    instance, eyes, database: str, postgres: PostgresServer, until, tmp_path_factory
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=SOON)
    instance.configure(JOBS.format(dsn=database, name="here", word="hello"))
    other = type(instance)(tmp_path_factory.mktemp("w"))
    other.configure(JOBS.format(dsn=database, name="there", word="good day"))
    try:
        instance.cli("start")
        other.cli("start")
        instance.serve()
        page = eyes.open(instance)
        card = page.locator("section", has=page.locator("#cluster-head"))
        expect(card.locator("h2")).to_have_text("Instances (2 of 2 alive)")
        row = card.locator('tr[data-instance="there"]')
        expect(row).to_contain_text("alive")
        expect(row.get_by_role("link", name="long").first).to_be_visible()
        expect(card).to_contain_text("defines otherwise than most: hello")
        assert "a-test" not in page.content(), "a part of the database's password"

        request = urllib.request.Request(
            f"{instance.url}/metrics", headers={"X-Dash-Key": instance.environ["DASHBOARD_KEY"]}
        )

        def told(pattern: str) -> re.Match[str] | None:
            with urllib.request.urlopen(request, timeout=60) as response:
                return re.search(pattern, response.read().decode())

        until(lambda: told(r'echosched_instance_alive\{instance_name="there"\} 1.0'))
        # An instance says with its heartbeat how many it took.
        until(lambda: told(r'echosched_instance_runs_taken_total\{instance_name="here"\} [1-9]'))

        instance.cli("cluster", "drain", "there")
        expect(row).to_contain_text(re.compile("drain"))
        postgres.stop()
        expect(card).to_contain_text("The database does not answer")
        postgres.start()
        expect(card.locator("h2")).to_have_text(re.compile(r"Instances \(\d of 2 alive\)"))
    finally:
        if not postgres.pids():
            postgres.start()
        other.close()
        instance.close()


def test_a_host_that_is_alone_shows_no_instances(served, eyes) -> None:
    page = eyes.open(served)
    # The health comes with the status, and whoever shares a database has its instances in it.
    page.locator("#health[data-health=ok]").wait_for()
    assert page.locator("#cluster-head").count() == 0

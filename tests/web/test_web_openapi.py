"""The server against its own OpenAPI document, and what the document promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DESIGNED = {
    ("POST", "/api/automations/start"),
    ("POST", "/api/automations/stop"),
    ("POST", "/api/automations/restart"),
    ("GET", "/api/automations/status"),
    ("POST", "/api/exec/brief"),
    ("POST", "/api/exec/report"),
    ("POST", "/api/self-heal"),
    ("GET", "/api/jobs"),
    ("GET", "/api/jobs/{job}"),
    ("POST", "/api/jobs/{job}/run"),
    ("POST", "/api/jobs/{job}/pause"),
    ("POST", "/api/jobs/{job}/resume"),
    ("GET", "/api/jobs/{job}/history"),
    ("GET", "/api/runs"),
    ("GET", "/api/runs/{run}"),
    ("GET", "/api/runs/{run}/output"),
    ("POST", "/api/runs/{run}/cancel"),
    ("GET", "/api/next"),
    ("GET", "/api/timeline"),
    ("GET", "/api/events"),
    ("GET", "/api/metrics-summary"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}

# Whether two instants are in order is nothing that a schema can say; the rest is held to the letter.
SETTINGS = """
[checks]
enabled = true
[[operations]]
include-path = "/api/timeline"
checks.positive_data_acceptance.enabled = false
"""


def test_the_document_has_every_designed_address(served):
    document = served.ask("GET", "/openapi.json")[1]
    offered = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert DESIGNED <= offered


def test_schemathesis_finds_nothing(served, home: Path):
    examples = "150" if os.environ.get("ECHOSCHED_DEEP") else "12"
    settings = home / "schemathesis.toml"
    settings.write_text(SETTINGS)
    # What the jobs do is nothing to this test; they shall not take the time that the calls could have.
    text = (home / "echosched.toml").read_text().replace("sleep 300", "sleep 1")
    served.configure(re.sub('builtin = "(brief|report|selfheal)"', 'command = "true"', text))
    (home / "go").touch()
    served.post("/api/automations/reload")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={settings}",
            "run",
            f"{served.url}/openapi.json",
            f"--header=X-Dash-Key: {served.environ['DASHBOARD_KEY']}",
            f"--max-examples={examples}",
            # These would stop what is being tested, or never end; they have tests of their own.
            "--exclude-path-regex=^/api/(automations/(start|stop|restart)|events)$",
            "--request-timeout=50",
            "--no-color",
        ],
        cwd=home,
        env=served.environ,
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert served.ask("GET", "/healthz", key=None)[0] == 200

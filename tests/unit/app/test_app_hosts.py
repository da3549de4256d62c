"""A machine of its own pays nothing for the others."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import echosched.app.worker
from echosched.app.hosts import SingleHost
heavy = [name for name in sys.modules if name.partition(".")[0] in ("psycopg", "psycopg_pool", "procrastinate")]
ours = [name for name in sys.modules if name.startswith(("echosched.store.postgres", "echosched.scheduler.cluster"))]
print(heavy, ours)
"""


def test_a_worker_without_cluster_loads_nothing_of_postgresql() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[] []", done

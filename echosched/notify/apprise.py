"""kind = "apprise": any service that the apprise library knows (extra ``notify``).

Options: ``url`` (apprise URLs), ``timeout``. Apprise blocks and is large: it runs in a child process for each
message, which gets URLs and words on its standard input, so that no list of processes shows them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from echosched.notify import DeliveryError, apprise_child
from echosched.notify.message import Letter, one_line
from echosched.notify.threads import in_thread
from echosched.notify.web import seconds

if TYPE_CHECKING:
    from echosched.protocols import Secrets

_TYPES = {
    "recovery": "success",
    "success": "success",
    "output": "info",
    "slow": "warning",
    "overdue": "warning",
}


async def send(letter: Letter, options: Mapping[str, Any], resolve: Secrets) -> None:
    """Send *letter* to every URL of the target."""
    task = {
        "urls": [resolve(url) for url in options["url"]],
        "title": letter.subject,
        "body": letter.text,
        "type": _TYPES.get(letter.first.occasion, "failure"),
    }
    limit = seconds(options)
    await in_thread(lambda: _in_child(json.dumps(task).encode(), limit), limit + 5)


def _in_child(task: bytes, limit: float) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-P", os.path.abspath(apprise_child.__file__)],
            input=task,
            capture_output=True,
            timeout=limit,
            env={"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8"},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"apprise: no end within {limit:g} s") from None
    except OSError as err:
        raise DeliveryError(f"apprise: {err.strerror}") from err
    if done.returncode == apprise_child.MISSING:
        raise DeliveryError("apprise: is not installed (pip install 'echosched[notify]')")
    if done.returncode != 0:
        told = one_line(done.stdout.decode(errors="replace"))
        raise DeliveryError(f"apprise: {told or f'exit code {done.returncode}'}")

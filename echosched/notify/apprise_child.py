"""The child process of kind ``apprise``: a task as JSON on stdin, an exit code, a reason without URLs on stdout."""

from __future__ import annotations

import json
import os
import sys

MISSING = 69


def main() -> int:
    """Send what stdin says and return the exit code."""
    task = json.load(sys.stdin)
    try:
        import apprise
    except ImportError:
        return MISSING
    sender = apprise.Apprise()
    for number, url in enumerate(task["urls"], 1):
        if not sender.add(url):
            os.write(1, f"url {number}: not understood by apprise".encode())
            return 1
    if not sender.notify(body=task["body"], title=task["title"], notify_type=task["type"]):
        os.write(1, b"the service did not take the message")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

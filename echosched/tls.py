"""TLS only for those who use it: asyncio imports OpenSSL for everybody, 3 MB of a worker that may never call anyone.

The interpreter may be built without ``ssl``, and asyncio is made for that; here it believes so until told better.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def put_off() -> None:
    """Import asyncio without TLS; does nothing where either has been imported already."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # what import takes for "there is none"
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def bring_in() -> None:
    """Let asyncio make TLS connections from now on, if it could not. May take 50 ms: not for the loop's thread."""
    import ssl

    without = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("asyncio.") and getattr(module, "ssl", ssl) is None
    ]
    for module in without:
        asyncios: Any = module
        asyncios.ssl = ssl
        if module.__name__ == "asyncio.sslproto":
            importlib.reload(module)  # chooses its exceptions when it is imported

"""BLAKE2 without the rest of ``hashlib``, whose import loads OpenSSL: 3 MB of a worker that needs nothing of it."""

from __future__ import annotations

try:
    from _blake2 import blake2b, blake2s
except ImportError:  # an interpreter that keeps them elsewhere
    from hashlib import blake2b, blake2s

__all__ = ["blake2b", "blake2s"]

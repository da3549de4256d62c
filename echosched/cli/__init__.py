"""The command line: docopt, verbs, exit codes; the only place that prints or exits."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Carry out a command line (default: ``sys.argv``) and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["--version"], ["-V"]):  # answered before anything heavier is imported
        from echosched.version import __version__

        print(f"echoschedd {__version__}")
        return 0
    from echosched.cli.dispatch import dispatch

    return dispatch(words)

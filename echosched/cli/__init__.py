"""The command line: docopt, verbs, exit codes; the only place that prints or exits."""

from __future__ import annotations

import io
import sys


def main(argv: list[str] | None = None) -> int:
    """Carry out a command line (default: ``sys.argv``) and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        # Closed at launch: the next file to be opened would become one of them.
        from echosched.daemon.context import repair_standard_streams

        repair_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A terminal of one alphabet shows the others escaped; it is no reason to show nothing.
        sys.stdout.reconfigure(errors="backslashreplace")
    if words[:1] in (["--version"], ["-V"]):  # answered before anything heavier is imported
        from echosched.version import __version__

        try:
            print(f"echoschedd {__version__}", flush=True)
        except OSError as error:
            from echosched.cli.dispatch import not_written

            return not_written(error)
        return 0
    from echosched.cli.dispatch import dispatch

    return dispatch(words)

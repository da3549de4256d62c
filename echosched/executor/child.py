"""The process side of ``python`` jobs and of jobs with limits; run as a file, imports nothing of the house.

``child.py call MODULE:FUNCTION``: reads the arguments (a JSON list) from stdin, calls the function,
awaits a coroutine, prints what came of it.
``child.py exec SPEC PATH ARGV…``: sets limits and account as SPEC (JSON) says, then becomes PATH.

What goes wrong is told by a last line that begins with :data:`REASON`; the executor reads it there.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REASON = "echosched: "
VALUE = "return value: "
EX_CALL = 1
EX_SETUP = 125
EX_NOT_EXECUTABLE = 126
EX_NOT_FOUND = 127


def main(argv: list[str]) -> int:
    """Do what *argv* says; return the exit code."""
    if argv[1] == "call":
        return call(argv[2])
    return become(_json().loads(argv[2]), argv[3], argv[4:])


def call(target: str) -> int:
    """Call *target* with the arguments from stdin and print its return value, or the traceback."""
    with os.fdopen(0, "rb", closefd=False) as stdin:
        given = stdin.read()
    args = _json().loads(given) if given else []
    # What is called reads nothing, like every job; and its imports find the job's directory first, as
    # with ``python -m``.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        sys.path.insert(0, os.getcwd())
    except OSError:
        pass  # the directory is gone, or not ours to see: nothing is imported from it then
    # Output that no encoding fits must not turn a good run into a failed one.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        value = _result(_find(target), args)
    except SystemExit:
        raise
    except BaseException as err:  # noqa: BLE001  (the boundary around a job's code)
        return _fail(err)
    sys.stdout.flush()
    if value is not None:
        _print(sys.stdout, VALUE + _as_text(value))
    return 0


def _json() -> Any:
    # Imported where it is needed only: it costs as much as the interpreter's own start.
    import json

    return json


def _find(target: str) -> Any:
    from importlib import import_module

    name, _, path = target.partition(":")
    found: Any = import_module(name)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _result(function: Any, args: list[Any]) -> Any:
    value = function(*args)
    if hasattr(value, "__await__"):
        import asyncio

        async def wait() -> Any:
            return await value

        value = asyncio.run(wait())
    return value


def _as_text(value: Any) -> str:
    try:
        text: str = _json().dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        # JSON too, so that the reader needs to know one form only.
        text = _json().dumps({"repr": repr(value)}, ensure_ascii=False)
    return text


def _fail(err: BaseException) -> int:
    import traceback

    # The first frames are this file's: nobody wants to read them.
    trace = err.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.stdout.flush()
    traceback.print_exception(type(err), err, trace)
    reason = traceback.format_exception_only(type(err), err)[-1].strip()
    _print(sys.stderr, REASON + reason.replace("\n", " "))
    return EX_CALL


def _print(stream: Any, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def become(spec: dict[str, Any], path: str, argv: list[str]) -> int:
    """Apply *spec* (``limits``, ``account``) and exec *path*; return only when that failed."""
    import resource
    import signal

    step = "limits"
    try:
        for name, value in spec.get("limits", ()):
            step = f"limits.{name}"
            limit = resource.RLIM_INFINITY if value < 0 else value
            resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (limit, limit))
        if spec.get("account") is not None:
            step = "user"
            uid, gid, groups = spec["account"]
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
    except (OSError, ValueError, AttributeError) as err:
        _print(sys.stderr, f"{REASON}{step}: {getattr(err, 'strerror', None) or err}")
        return EX_SETUP
    # The interpreter ignores these; the job must not.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(path, argv)  # noqa: S606
    except OSError as err:
        if err.errno == 8:  # ENOEXEC: a script without "#!", which a shell runs
            os.execv("/bin/sh", ["/bin/sh", path, *argv[1:]])  # noqa: S606
        missing = isinstance(err, FileNotFoundError)
        what = "command not found" if missing else "command not executable"
        _print(sys.stderr, f"{REASON}{what}: {argv[0]} ({err.strerror})")
        return EX_NOT_FOUND if missing else EX_NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv))

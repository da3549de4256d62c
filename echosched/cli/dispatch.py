"""From words to a verb, and from whatever it raises to one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

from echosched import errors
from echosched.cli.usage import TOP, USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# verb → module of this room; the function has the verb's name, with _ for -.
HOMES = {
    "start": "lifecycle",
    "stop": "lifecycle",
    "restart": "lifecycle",
    "reload": "lifecycle",
    "upgrade": "lifecycle",
    "status": "status",
    "logs": "logs",
    "web": "web",
    "service": "service",
    "cluster": "cluster",
    "jobs": "jobs",
    "next": "jobs",
    "pause": "jobs",
    "resume": "jobs",
    "explain": "schedules",
    "simulate": "schedules",
    "run": "runs",
    "history": "runs",
    "output": "runs",
    "cancel": "runs",
    "check": "files",
    "edit": "edit",
    "import-crontab": "files",
    "doctor": "doctor",
    "completion": "completion",
}
LSB_VERBS = frozenset({"start", "stop", "restart", "reload", "upgrade", "service"})
WHERE = ("--home", "--config", "--pidfile", "--socket", "--db", "--log")


def dispatch(words: list[str]) -> int:
    """Carry out the command line *words*; return the exit code. Prints every error as one line."""
    verb, rest = split(words)
    try:
        if verb == "--help":
            print(TOP, end="", flush=True)
            return errors.EX_OK
        if verb in ("_worker", "_web"):  # what a supervisor starts; nothing for people
            from echosched.cli.lifecycle import worker

            return worker(verb, rest)
        if verb not in USAGE:
            raise errors.UsageError(_no_command(verb, words))
        if "-h" in rest or "--help" in rest:
            print(USAGE[verb], end="", flush=True)
            return errors.EX_OK
        arguments = parse(verb, rest)
        module = import_module(f"echosched.cli.{HOMES[verb]}")
        code: int = getattr(module, verb.replace("-", "_"))(arguments)
        sys.stdout.flush()
    except BrokenPipeError as error:
        return not_written(error)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except errors.EchoschedError as error:
        return _fail(verb, error, debug="--debug" in words)
    except Exception as error:
        if isinstance(error, OSError) and _is_of_stdout(error):
            return not_written(error)
        if "--debug" in words:
            raise
        print(
            f"echoschedd: {verb}: internal error: {type(error).__name__}: {error} (--debug shows where)",
            file=sys.stderr,
        )
        return errors.EX_SOFTWARE
    return code


def not_written(error: OSError) -> int:
    """Return the exit code for what stdout did not take, and say why; a reader that left (head, less) is no error."""
    # Nothing may be written any more, at exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return errors.EX_OK
    print(f"echoschedd: stdout: {error.strerror}", file=sys.stderr)
    return errors.EX_IOERR


def _is_of_stdout(error: OSError) -> bool:
    """Tell whether stdout is what failed: whatever else a command opens or writes has a name in its error."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def split(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb and its arguments; options before the verb move behind it.

    ``--foreground`` without a verb means ``start --foreground``.
    """
    before: list[str] = []
    at = 0
    while at < len(words) and words[at].startswith("-"):
        if words[at] in ("-h", "--help"):
            return "--help", []
        before.append(words[at])
        if words[at] in WHERE and at + 1 < len(words):
            at += 1
            before.append(words[at])
        at += 1
    if at < len(words):
        return words[at], before + words[at + 1 :]
    if "--foreground" in before:
        return "start", before
    return ("--help", []) if not before else ("", before)


def parse(verb: str, words: list[str]) -> dict[str, Any]:
    """Return what docopt makes of *words*; raises ``UsageError`` with one line and the usage."""
    import docopt

    text = USAGE[verb]
    try:
        # Positional arguments: docopt and docopt-ng name them differently.
        return dict(docopt.docopt(text, [verb, *words], False))
    except docopt.DocoptExit:
        from echosched.cli.wrong import usage_of, wrong_words

        raise errors.UsageError(f"{verb}: {wrong_words(verb, words)}\n{usage_of(text)}") from None


def _no_command(verb: str, words: list[str]) -> str:
    from echosched.cli.wrong import unknown, usage_of, wrong_option

    # What stands before the command comes first: of "--hme x", "x" is not what is wrong.
    lead = words[: words.index(verb)] if verb else words
    missing = unknown(verb) if verb else "a command is missing (echoschedd --help lists them)"
    return f"{wrong_option(TOP, lead) or missing}\n{usage_of(TOP)}"


def _fail(verb: str, error: errors.EchoschedError, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    for line in str(error).splitlines() or [type(error).__name__]:
        usage = isinstance(error, errors.UsageError) and (line.startswith(("Usage:", "  ")))
        print(line if usage else f"echoschedd: {line}", file=sys.stderr)
    return exit_code(verb, error)


def exit_code(verb: str, error: errors.EchoschedError) -> int:
    """Return LSB's code for the verbs that control the daemon, that of ``sysexits.h`` for the others."""
    lsb = verb in LSB_VERBS
    if isinstance(error, errors.ConfigError):
        return errors.EX_NOT_CONFIGURED if lsb else errors.EX_CONFIG
    if isinstance(error, errors.NotRunning) and not lsb:
        return errors.EX_UNAVAILABLE
    if isinstance(error, errors.PermissionRefused) and lsb:
        return errors.EX_PRIVILEGE
    if lsb and error.exit_code > errors.EX_NOT_RUNNING:
        return errors.EX_ERROR
    return error.exit_code

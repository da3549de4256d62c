"""``check``, ``edit``, ``import-crontab``: the configuration's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from echosched.cli import render
from echosched.cli.session import client_of, paths_of
from echosched.errors import EX_CONFIG, ConfigError, EchoschedError, NotRunning


def check(arguments: dict[str, Any]) -> int:
    """Validate the configuration and show everything that is wrong or doubtful."""
    from echosched.clock import SystemClock
    from echosched.config.daylight import daylight_warnings
    from echosched.config.load import load

    paths = paths_of(arguments)
    path = arguments["<file>"]
    try:
        config = load(path, paths=paths, drop_ins=path is None)
    except ConfigError as error:
        if arguments["--json"]:
            render.print_json({"ok": False, "problems": list(error.problems), "warnings": []})
        else:
            for problem in error.problems:
                print(f"echoschedd: {problem}", file=sys.stderr)
        return EX_CONFIG
    warnings = [*config.warnings, *daylight_warnings(config.jobs.values(), SystemClock().now())]
    if arguments["--json"]:
        render.print_json({"ok": True, "problems": [], "warnings": warnings, "jobs": sorted(config.jobs)})
        return 0
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    count = len(config.jobs)
    print(f"{path or paths.config}: good, {count} job{'' if count == 1 else 's'}")
    return 0


def edit(arguments: dict[str, Any]) -> int:
    """Let an editor loose on a copy; save it only when it is valid, then reload a running daemon."""
    paths = paths_of(arguments)
    target = os.path.realpath(arguments["<file>"] or paths.config)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or shutil.which("sensible-editor") or "vi"
    with tempfile.TemporaryDirectory() as directory:
        # Beside nothing else, but under its own name: editors choose the syntax by it.
        draft = os.path.join(directory, os.path.basename(target))
        before = b""
        if os.path.exists(target):
            with open(target, "rb") as file:
                before = file.read()
        with open(draft, "wb") as file:
            file.write(before)
        while True:
            if subprocess.run([*editor.split(), draft], check=False).returncode != 0:
                raise EchoschedError(f"edit: {editor} failed; {target} is unchanged")
            with open(draft, "rb") as file:
                after = file.read()
            if after == before:
                print(f"{target}: unchanged")
                return 0
            problems = _problems(draft, target)
            if not problems:
                break
            for problem in problems:
                print(f"echoschedd: {problem}", file=sys.stderr)
            if not _again():
                raise EchoschedError(f"edit: {target} is unchanged")
        _save(target, after)
    print(f"{target}: saved")
    return _reload(arguments)


def _problems(draft: str, target: str) -> list[str]:
    from echosched.config.load import load

    try:
        load(target, draft=draft)
    except ConfigError as error:
        return list(error.problems)
    return []


def _again() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Edit again? [Y/n] ").strip().lower() not in ("n", "no")


def _save(target: str, content: bytes) -> None:
    mode, owner = 0o640, None
    with contextlib.suppress(FileNotFoundError):
        stat = os.stat(target)
        mode, owner = stat.st_mode & 0o777, (stat.st_uid, stat.st_gid)
    fd, name = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=".new")
    with open(fd, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        if owner is not None and os.geteuid() == 0:
            os.fchown(file.fileno(), *owner)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, target)


def _reload(arguments: dict[str, Any]) -> int:
    try:
        with client_of(arguments) as client:
            answer = client.call("reload")
    except NotRunning:
        return 0
    print(f"reloaded: {answer['jobs']} jobs")
    return 0


def import_crontab(arguments: dict[str, Any]) -> int:
    """Print a crontab as TOML; warnings go to stderr and into comments."""
    from echosched.config.crontab_import import import_crontab as convert

    name = arguments["<file>"]
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise EchoschedError(f"{name}: {error.strerror}") from None
    toml = convert(text, system=arguments["--system"], name="stdin" if name == "-" else name)
    for line in toml.splitlines():
        if not line.startswith("#"):
            break
        print(f"echoschedd: {line.lstrip('# ')}", file=sys.stderr)  # what means something else here
    print(toml, end="")
    return 0

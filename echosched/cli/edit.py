"""``edit``: an editor works on a copy; only what is valid is saved, and nothing that was typed is lost.

Validated is the configuration as it would be afterwards: a drop-in together with the main file and the
other drop-ins.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from echosched.cli.session import client_of, paths_of
from echosched.errors import ConfigError, EchoschedError, NotRunning

if TYPE_CHECKING:
    from echosched.config.paths import Paths


def edit(arguments: dict[str, Any]) -> int:
    """Let an editor loose on a copy; save it only when it is valid, then reload a running daemon."""
    paths = paths_of(arguments)
    target = os.path.realpath(arguments["<file>"] or paths.config)
    before = _read(target)
    directory = tempfile.mkdtemp(prefix="echosched-edit-")
    # Beside nothing else, but under its own name: editors choose the syntax by it.
    draft = os.path.join(directory, os.path.basename(target))
    with open(draft, "wb") as file:
        file.write(before or b"")
    try:
        after = _edited(draft, target, paths, before or b"")
        if after is None:
            print(f"{target}: unchanged")
            shutil.rmtree(directory, ignore_errors=True)
            return 0
        if _read(target) != before:
            raise EchoschedError(f"edit: {target} was changed by somebody else meanwhile")
        _save(target, after)
    except (EchoschedError, OSError) as error:
        reason = f"edit: {target}: {error.strerror}" if isinstance(error, OSError) else str(error)
        kept = f"your text is in {draft}" if _read(draft) != (before or b"") else "it is unchanged"
        raise EchoschedError(f"{reason} ({kept})") from error
    shutil.rmtree(directory, ignore_errors=True)
    print(f"{target}: saved")
    return _reload(arguments)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EchoschedError(f"edit: {path}: {error.strerror}") from None


def _edited(draft: str, target: str, paths: Paths, before: bytes) -> bytes | None:
    """Return what the editor left once it is valid, ``None`` if it left everything as it was."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if chosen is None and not sys.stdin.isatty():
        raise EchoschedError("edit: there is no terminal to edit on (or set EDITOR to what needs none)")
    editor = shlex.split(chosen or shutil.which("sensible-editor") or "vi")
    while True:
        try:
            ended = subprocess.run([*editor, draft], check=False).returncode
        except OSError as error:
            raise EchoschedError(f"edit: {editor[0]}: {error.strerror} (set VISUAL or EDITOR)") from None
        if ended != 0:
            raise EchoschedError(f"edit: {editor[0]} failed, {target} is not saved")
        after = _read(draft) or b""
        if after == before:
            return None
        problems = _problems(draft, target, paths)
        if not problems:
            return after
        for problem in problems:
            print(f"echoschedd: {problem}", file=sys.stderr)
        if not _again():
            raise EchoschedError(f"edit: {target} is not saved")


def _problems(draft: str, target: str, paths: Paths) -> list[str]:
    from echosched.config.load import load

    main = os.path.realpath(paths.config)
    try:
        if target == main or _belongs(target, main, paths):
            load(main, paths=paths, draft=draft, draft_of=target)
        else:  # a configuration of its own, or one to be
            load(target, draft=draft)
    except ConfigError as error:
        return list(error.problems)
    return []


def _belongs(target: str, main: str, paths: Paths) -> bool:
    """Tell whether *target* is one of the configuration's other files, or a drop-in to be."""
    if os.path.dirname(target) == os.path.join(os.path.dirname(main), "jobs.d"):
        return True
    from echosched.config.load import load

    with contextlib.suppress(ConfigError):
        return target in map(os.path.realpath, load(paths=paths).sources)
    return False


def _again() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Edit again? [Y/n] ").strip().lower() not in ("n", "no")


def _save(target: str, content: bytes) -> None:
    """Put *content* in place of the file at once: nobody ever reads half of it. Mode and owner stay."""
    mode, owner = 0o640, None
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(target)
        mode, owner = found.st_mode & 0o777, (found.st_uid, found.st_gid)
    os.makedirs(os.path.dirname(target), mode=0o750, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=".new")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if owner is not None and os.geteuid() == 0:
                os.fchown(file.fileno(), *owner)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except OSError:
        os.unlink(name)
        raise


def _reload(arguments: dict[str, Any]) -> int:
    try:
        with client_of(arguments) as client:
            answer = client.call("reload")
    except NotRunning:
        return 0
    print(f"reloaded: {answer['jobs']} jobs")
    return 0

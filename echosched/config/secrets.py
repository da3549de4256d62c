"""Secrets stay where they are until a run needs them.

Three references may stand in a job's strings: ``${env:NAME}`` (the daemon's environment), ``${file:/path}`` and
``${credential:NAME}`` (systemd's LoadCredential). They are resolved just before an attempt, and what they resolved to
is remembered only so that :meth:`SecretResolver.redact` can keep it out of messages and output.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping

from echosched.errors import ExecutionError

_REFERENCE = re.compile(r"\$\{(env|file|credential):([^{}\n]*)\}")
_NEARLY = re.compile(r"\$\{([A-Za-z]{2,12}):([^{}\n]+)\}")
_LARGEST_FILE = 64 * 1024
_SHORTEST_REDACTED = 4  # replacing "1" or "yes" everywhere would garble what people need to read
_MASK = "[secret]"


class SecretResolver:
    """Replaces references in strings; satisfies :data:`echosched.protocols.Secrets`.

    Calling it raises ``ExecutionError`` that names the reference, never a value. Many threads may call it at once.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._seen: dict[str, None] = {}  # replaced, never changed: readers need no lock
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        """Return *text* with every reference replaced by what it names now."""
        if "${" not in text:
            return text
        return _REFERENCE.sub(self._replace, text)

    @property
    def seen(self) -> tuple[str, ...]:
        """Return every value that is masked, longest first."""
        return tuple(self._seen)

    def know(self, values: Iterable[str]) -> None:
        """Mask *values* too: what another process has resolved."""
        values = set(values)
        # Each replaces what it has read: without the lock, of two that come at once one would stay readable.
        with self._lock:
            # Longest first: a secret inside another one must not leave the rest of the longer one readable.
            self._seen = dict.fromkeys(sorted(values.union(self._seen), key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Return *text* with every value that was ever resolved masked."""
        for value in self._seen:
            if value in text:
                text = text.replace(value, _MASK)
        return text

    def _replace(self, match: re.Match[str]) -> str:
        value = self._look_up(match[1], match[2], match[0])
        lines = {line for line in (value, *value.splitlines()) if len(line) >= _SHORTEST_REDACTED}
        if not lines.issubset(self._seen):
            self.know(lines)
        return value

    def _look_up(self, kind: str, name: str, reference: str) -> str:
        if kind == "env":
            value = self._environ.get(name)
            if value is None:
                raise ExecutionError(f"{reference}: not set in the daemon's environment")
            return value
        path = name
        if kind == "credential":
            directory = self._environ.get("CREDENTIALS_DIRECTORY")
            if not directory:
                raise ExecutionError(
                    f"{reference}: systemd gave no credentials (LoadCredential= in the unit)"
                )
            if not name or "/" in name or name in (".", ".."):
                raise ExecutionError(f"{reference}: not the name of a credential")
            path = os.path.join(directory, name)
        return _read(path, reference)


def _read(path: str, reference: str) -> str:
    if not os.path.isabs(path):
        raise ExecutionError(f"{reference}: must be an absolute path")
    try:
        # Non-blocking, so that a named pipe in place of the file cannot hold up a run for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_LARGEST_FILE + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise ExecutionError(f"{reference}: {reason}") from None
    if not data:
        raise ExecutionError(f"{reference}: is empty")
    if len(data) > _LARGEST_FILE:
        raise ExecutionError(f"{reference}: is larger than {_LARGEST_FILE} bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ExecutionError(f"{reference}: is not UTF-8 text") from None


def references(text: str) -> Iterator[str]:
    """Yield each reference in *text* as it is written."""
    if "${" in text:
        for match in _REFERENCE.finditer(text):
            yield match[0]


def doubtful(text: str) -> str | None:
    """Return why something in *text* looks like a reference and is none (``${evn:NAME}``), or ``None``."""
    if "${" not in text:
        return None
    for match in _NEARLY.finditer(text):
        if match[1] not in ("env", "file", "credential"):
            from echosched.config.values import nearest

            guess = nearest(match[1], ("env", "file", "credential"))
            if guess:
                return f"${{{match[1]}:…}} is no reference and stays as it is{guess}"
    return None

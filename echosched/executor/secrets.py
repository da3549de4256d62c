"""Keeping what references resolved to out of messages and output."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from echosched.protocols import Secrets

REFERENCE = re.compile(r"\$\{(?:env|file|credential):[^{}\n]*\}")
MASK = "***"

_SHORTEST = 4  # masking "1" or "yes" wherever it stands would garble the text and protect nothing


class Redactor:
    """Resolves references for one attempt and remembers the values, to mask them later."""

    def __init__(self, resolve: Secrets) -> None:
        self._resolve = resolve
        self._values: set[str] = set()
        self._pattern: re.Pattern[bytes] | None = None
        self._longest = 0
        self._held = b""

    def resolve(self, text: str) -> str:
        """Return *text* with its references resolved; raises ``ExecutionError``."""
        if "${" not in text:
            return text
        for reference in REFERENCE.findall(text):
            value = self._resolve(reference)
            for part in (value, *value.splitlines()):
                if len(part) >= _SHORTEST:
                    self._values |= {part, quote(part, safe=""), quote(part)}
        self.know(self._values)
        return self._resolve(text)

    @property
    def values(self) -> frozenset[str]:
        """Return everything that is masked."""
        return frozenset(self._values)

    def know(self, values: Iterable[str]) -> None:
        """Mask *values* too: what another process has resolved."""
        self._values |= set(values)
        encoded = sorted((value.encode("utf-8", "surrogateescape") for value in self._values), key=len)
        if encoded:
            self._longest = len(encoded[-1])
            self._pattern = re.compile(b"|".join(re.escape(value) for value in reversed(encoded)))

    def knows(self, data: bytes) -> bool:
        """Tell whether there is anything in *data* that would be masked."""
        return self._pattern is not None and self._pattern.search(data) is not None

    def text(self, text: str) -> str:
        """Return *text* with every resolved value masked."""
        if self._pattern is None:
            return text
        data = self._pattern.sub(MASK.encode(), text.encode("utf-8", "surrogateescape"))
        return data.decode("utf-8", "surrogateescape")

    def feed(self, data: bytes) -> bytes:
        """Return what of a stream may be shown already; a value cut in two by chunks is masked as well."""
        if self._pattern is None:
            return data
        data = self._held + data
        # What might be the beginning of a value stays back, unmasked, until the next chunk: only a match
        # that starts before that part is certain to be the longest one possible.
        cut = max(len(data) - self._longest + 1, 0)
        shown, at = [], 0
        for match in self._pattern.finditer(data):
            if match.start() >= cut:
                break
            shown += [data[at : match.start()], MASK.encode()]
            at = match.end()
        shown.append(data[at:cut])
        self._held = data[max(at, cut) :]
        return b"".join(shown)

    def flush(self) -> bytes:
        """Return the rest of the stream."""
        rest, self._held = self._held, b""
        return rest if self._pattern is None else self._pattern.sub(MASK.encode(), rest)

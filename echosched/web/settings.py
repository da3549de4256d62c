"""What a web server needs to know before it can start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echosched.config.paths import Paths
    from echosched.config.settings import WebConfig

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 5000
GUARD_SECONDS = 30.0
BODY_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The settings of one web server process.

    *allowed_hosts* are host names, beside loopback names and plain addresses, under which browsers may reach
    this server. *port* 0 lets the kernel choose. *key_file* ``None`` means the instance's own ``web.key``. *options*
    are the path flags as the operator gave them (``--home DIR`` …), repeated to the commands that start and stop
    the scheduler; none of them means the system's or the user's own instance, as on the command line.
    """

    paths: Paths
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    key_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    options: tuple[str, ...] | None = None
    guard_seconds: float = GUARD_SECONDS
    start_wait_seconds: float = 60.0

    @property
    def key_path(self) -> Path:
        """Return where the key is kept."""
        return Path(self.key_file or self.paths.web_key)

    @property
    def path_options(self) -> tuple[str, ...]:
        """Return the flags that name this instance to ``echoschedd``."""
        return tuple(self.paths.options()) if self.options is None else self.options

    @classmethod
    def of(
        cls,
        paths: Paths,
        config: WebConfig,
        *,
        host: str | None = None,
        port: int | None = None,
        options: tuple[str, ...] | None = None,
    ) -> WebSettings:
        """Return the settings of instance *paths* as configured; the others come from the command line."""
        return cls(
            paths=paths,
            host=config.host if host is None else host,
            port=config.port if port is None else port,
            key_file=config.key_file,
            allowed_hosts=config.allowed_hosts,
            options=options,
        )


Announce = Callable[[str], None]
"""Says one line to whoever started the server (the command line prints it)."""

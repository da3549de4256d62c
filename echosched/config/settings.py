"""The configuration as the program sees it: frozen values, checked, ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from echosched.config.daemon_settings import DaemonConfig
from echosched.model import Job

NOTIFY_KINDS = ("mail", "webhook", "healthchecks", "apprise")
NOTIFY_OCCASIONS = (
    "failure",
    "recovery",
    "missed",
    "abandoned",
    "slow",
    "overdue",
    "success",
    "output",  # whatever a run printed, as cron's MAILTO has it
)


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """What the ``retention`` job keeps. Ages are counted from the end of a run."""

    runs: timedelta = timedelta(days=30)
    keep: int = 1000  # newest runs of each job, at most
    output: timedelta = timedelta(days=7)
    reports: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Where the web server listens. *allowed_hosts* are further ``Host`` names it answers to."""

    host: str = "127.0.0.1"
    port: int = 5000
    key_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotifyConfig:
    """One ``[notify.NAME]``. *options* are the keys of its kind; strings may hold ``${env:…}``.

    *default* tells whether jobs without a ``notify`` key use it; a crontab's MAILTO makes one that only its own
    jobs name.
    """

    name: str
    kind: str
    on: tuple[str, ...] = ("failure", "recovery", "missed", "abandoned")
    default: bool = True
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Cluster:
    """``[cluster]``: the database that many hosts share, and this one's part in it.

    *dsn* may hold ``${env:…}`` and ``${file:…}``, is resolved where the database is opened and never shown. An
    instance runs what asks for no label beside its *labels*.
    """

    dsn: str = field(repr=False)
    instance: str
    heartbeat: timedelta = timedelta(seconds=10)
    lease: timedelta = timedelta(seconds=30)  # without a beat for so long an instance counts as dead
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the files say. *warnings* are for ``check``; *sources* are the files read, in order."""

    jobs: dict[str, Job]
    daemon: DaemonConfig
    retention: RetentionConfig = RetentionConfig()
    web: WebConfig = WebConfig()
    notify: dict[str, NotifyConfig] = field(default_factory=dict)
    timezone: str = "UTC"
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    cluster: Cluster | None = None  # None: this machine alone, on SQLite

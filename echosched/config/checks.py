"""What can only be judged once all files are read, and the warnings that ``check`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from echosched.config import values as v
from echosched.config.jobs import Links, account_exists
from echosched.config.secrets import SecretResolver, doubtful, references
from echosched.config.settings import Cluster, NotifyConfig
from echosched.errors import ExecutionError
from echosched.model import Action, CommandAction, HttpAction, Job


def check_after(links: Sequence[Links], names: Iterable[str], problems: v.Problems) -> None:
    """Note jobs that wait for a job that does not exist, and jobs that wait for each other."""
    known = set(names)
    earlier: dict[str, str] = {}
    for link in links:
        if link.after is None:
            continue
        earlier[link.job] = wanted = link.after.job
        if wanted not in known:
            problems.add_value_at(link.source, "after", wanted, "no such job" + v.nearest(wanted, known))
    sources = {link.job: link.source for link in links}
    told: set[str] = set()
    for start in earlier:
        chain: list[str] = []
        name: str | None = start
        while name is not None and name not in told and name not in chain:
            chain.append(name)
            name = earlier.get(name)
        if name is not None and name in chain:
            ring = " after ".join([*chain[chain.index(name) :], name])
            problems.add_value_at(sources[name], "after", earlier[name], f"goes round in a circle: {ring}")
        told.update(chain)


def check_notify(links: Iterable[Links], known: Iterable[str], problems: v.Problems) -> None:
    """Note jobs that name a ``[notify.NAME]`` which does not exist."""
    names = set(known)
    for link in links:
        for wanted in link.policy.notify or ():
            if wanted not in names:
                reason = f"there is no [notify.{wanted}]{v.nearest(wanted, names)}"
                problems.add_value_at(link.source, "notify", wanted, reason)


def check_groups(links: Iterable[Links], problems: v.Problems) -> None:
    """Note concurrency groups whose jobs disagree about the limit."""
    limits: dict[str, tuple[int, str]] = {}
    for link in links:
        group, limit = link.policy.concurrency_group, link.policy.concurrency_limit
        if group is None:
            continue
        other, first = limits.setdefault(group, (limit, link.job))
        if other != limit:
            reason = f"has the limit {limit} here and {other} for {first} (one group, one limit)"
            problems.add_value_at(link.source, "concurrency_group", group, reason)


def place_of(job: Job) -> str:
    """Return ``file: job.NAME``; jobs of a crontab share the name of their file, to be small."""
    return job.source if job.source.endswith(f": job.{job.name}") else f"{job.source}: job.{job.name}"


# ── warnings ──────────────────────────────────────────────────────────────────────────────────


def warnings_of(
    jobs: Mapping[str, Job],
    notify: Mapping[str, NotifyConfig],
    environ: Mapping[str, str],
    cluster: Cluster | None = None,
) -> list[str]:
    """Return what is allowed but hardly meant: unset secrets, near misses of references, unknown accounts, jobs
    that nothing starts.
    """
    resolver = SecretResolver(environ)
    found: list[str] = []
    looked_up: dict[str, str | None] = {}
    accounts: dict[tuple[str, str], bool] = {}
    bundles: dict[tuple[int, int], list[str]] = {}
    for job in jobs.values():
        if job.schedule is None and job.after is None and job.enabled:
            reason = f"nothing starts it: no schedule, no after (only: echoschedd run {job.name})"
            found.append(f"{place_of(job)}: {reason}")
        for kind in ("user", "group"):
            account = getattr(job.process, kind)
            if account is None:
                continue
            if (kind, account) not in accounts:
                accounts[kind, account] = account_exists(account, group=kind == "group")
            if not accounts[kind, account]:
                reason = f"no such {kind} on this machine (now; each run looks again and fails without it)"
                found.append(f"{place_of(job)}.{kind}: {v.shown(account)}: {reason}")
        # Shared settings are looked into once, and most commands hold nothing to look up: crontabs are long.
        shared = (id(job.policy), id(job.process))
        texts = bundles.get(shared)
        if texts is None:
            texts = bundles[shared] = [text for text in _bundle_strings(job) if "${" in text]
        action = job.action
        if type(action) is CommandAction and type(action.command) is str and "${" not in action.command:
            if not texts and not action.args and action.stdin is None:
                continue
        _warn(place_of(job), [*_action_strings(action), *texts], resolver, looked_up, found)
    for name, target in notify.items():
        _warn(f"notify.{name}", _strings(target.options), resolver, looked_up, found)
    if cluster is not None:
        _warn("cluster.dsn", [cluster.dsn], resolver, looked_up, found, "the start looks again")
    return found


def _warn(
    place: str,
    texts: Iterable[str],
    resolver: SecretResolver,
    known: dict[str, str | None],
    found: list[str],
    again: str = "each run looks again",
) -> None:
    told: set[str] = set()
    for text in texts:
        for reference in references(text):
            if reference not in known:
                try:
                    resolver(reference)
                    known[reference] = None
                except ExecutionError as error:
                    known[reference] = str(error)
            reason = known[reference]
            if reason is not None and reason not in told:
                told.add(reason)
                found.append(f"{place}: {reason} (now; {again} and fails without it)")
        near = doubtful(text)
        if near is not None:
            found.append(f"{place}: {near}")


def _action_strings(action: Action) -> Iterator[str]:
    if isinstance(action, (CommandAction, HttpAction)):
        yield from _strings(tuple(getattr(action, name) for name in type(action).__slots__))


def _bundle_strings(job: Job) -> Iterator[str]:
    yield from _strings((job.policy.healthcheck, job.process.env, job.process.env_file, job.process.cwd))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _strings(item)

"""What an instance makes of what should not happen: odd answers, odd messages, a database that answers by halves."""

from __future__ import annotations

from typing import Any

import pytest

from . import test_cluster_instances as cluster
from .instances import ended, job, until

MakeInstance = cluster.MakeInstance
make = cluster.make


async def test_an_unexpected_error_in_taking_runs_is_told_and_they_are_taken_again(
    make: MakeInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echosched.store.postgres_tickets.FAILED_SECONDS", 0.1)
    one = make("a")
    await one.begin(job("task"))
    await ended(one, await one.scheduler.trigger("task"))
    real, calls = one.store.take, list[Any]()

    async def odd(*asked: Any) -> Any:
        calls.append(asked)
        if len(calls) == 1:
            raise ValueError("'half' is not a valid State")
        return await real(*asked)

    one.store.take = odd  # type: ignore[method-assign]
    run = await one.scheduler.trigger("task")
    await until(lambda: run in one.started, "the run begins all the same")
    assert len(calls) > 1
    assert "taking runs failed" in caplog.text

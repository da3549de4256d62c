"""Many runs in one reading: what the dashboard of thousands of jobs asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from echosched.model import Claim, Ended, Result, State, Trigger
from echosched.store.sqlite import SqliteStore

START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_runs_are_found_by_number_and_by_job_newest_first(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db", owner="here:1")
    await store.open()
    jobs = [f"job {n}" for n in range(40)]
    claims = [
        Claim(job, START + timedelta(minutes=m), Trigger.SCHEDULE, State.RUNNING, START)
        for m in range(30)
        for job in jobs
    ]
    numbers = [number for number in await store.claim(claims) if number is not None]
    done = Result(State.SUCCEEDED, exit_code=0)
    await store.finish(
        [Ended(n, c.job, 1, START, done) for n, c in zip(numbers, claims, strict=True) if n % 2]
    )
    await store.close()
    reader = SqliteStore(tmp_path / "jobs.db", read_only=True)
    await reader.open()
    found = await reader.get_runs([*numbers, max(numbers) + 5])
    assert sorted(found) == numbers
    assert found[numbers[7]] == await reader.get_run(numbers[7])
    recent = await reader.recent([*jobs[:3], "none"], 20)
    assert list(recent) == [*jobs[:3], "none"]
    assert recent["none"] == []
    for job in jobs[:3]:
        assert recent[job] == await reader.history(job=job, limit=20)
        assert len(recent[job]) == 20
    assert await reader.get_runs([]) == {}
    await reader.close()

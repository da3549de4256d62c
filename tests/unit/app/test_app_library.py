"""The library on a clock that is moved by hand: definitions, rehearsals, callbacks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echosched import Context, Scheduler, State
from echosched.errors import AlreadyRunning, ConfigError, Conflict, NotFound, UsageError
from echosched.events import Event, RunEnd, RunMissed, RunRetry, RunStart
from echosched.testing import FakeClock, RecordingSink

DAY = timedelta(days=1)


def scheduler(**options: object) -> Scheduler:
    return Scheduler(clock=FakeClock(), **options)  # type: ignore[arg-type]


# ── definitions ───────────────────────────────────────────────────────────────────────────────


def test_a_decorated_function_stays_what_it_was() -> None:
    jobs = scheduler()

    def brief() -> int:
        """Say good morning.

        Nothing else.
        """
        return 7

    assert jobs.job("0 8 * * *")(brief) is brief
    job = jobs.jobs["brief"]
    assert (job.description, job.timezone, job.schedule_text) == ("Say good morning.", "UTC", "0 8 * * *")


def test_a_wrong_definition_names_its_line_and_all_that_is_wrong() -> None:
    jobs = scheduler()
    with pytest.raises(ConfigError) as caught:

        @jobs.job("61 * * * *", retries=-1, timeot="5m")  # type: ignore[call-arg]
        def broken() -> None: ...

    assert len(caught.value.problems) == 3
    assert all(line.startswith("test_app_library.py:") for line in caught.value.problems)
    assert 'did you mean "timeout"' in str(caught.value)
    assert "broken" not in jobs.jobs


def test_two_jobs_of_one_name_are_refused_with_the_place_of_the_first() -> None:
    jobs = scheduler()
    jobs.add("a", "@daily", command="true")
    with pytest.raises(
        ConfigError, match=r"job a|job\.a: there is a job of that name already \(test_app_lib"
    ):
        jobs.add("a", "@daily", command="true")


@pytest.mark.parametrize("key", ["heal", "notify", "healthcheck", "builtin"])
def test_what_only_the_daemon_has_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="only the daemon"):
        scheduler().add("a", "@daily", command="true", **{key: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["cwd", "env", "user", "args", "command"])
def test_a_function_takes_no_settings_of_processes(key: str) -> None:
    with pytest.raises(ConfigError, match="runs in this program"):
        scheduler().add("a", "@daily", function=print, **{key: "/"})  # type: ignore[arg-type]


def test_a_job_does_one_thing() -> None:
    with pytest.raises(ConfigError, match="does nothing"):
        scheduler().add("a", "@daily")
    with pytest.raises(ConfigError, match="does two things"):
        scheduler().add("a", "@daily", command="true", http="http://127.0.0.1/")


def test_durations_may_be_text_numbers_or_timedeltas() -> None:
    jobs = scheduler()
    jobs.add(
        "a", "@daily", command=("sleep", "1"), timeout=timedelta(minutes=2), kill_after=0.5, retry_delay="1m"
    )
    policy = jobs.jobs["a"].policy
    assert policy.timeout == timedelta(minutes=2)
    assert policy.kill_after == timedelta(seconds=0.5)
    assert policy.retry_delay == timedelta(minutes=1)
    jobs.add("b", "@daily", command="true", timeout=None)
    assert jobs.jobs["b"].policy.timeout is None


def test_a_decorator_without_parentheses_is_told_what_is_missing() -> None:
    with pytest.raises(UsageError, match="parentheses"):
        scheduler().job(print)  # type: ignore[arg-type]


def test_an_unknown_time_zone_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="Europe/Berlin"):
        Scheduler(timezone="Europe/Berlni")


async def test_chains_that_lead_nowhere_prevent_the_start() -> None:
    jobs = scheduler()
    jobs.add("late", after="early", command="true")
    with pytest.raises(ConfigError, match="no such job"):
        async with jobs:
            raise AssertionError("started")


def test_removing_an_unknown_job_names_the_nearest() -> None:
    jobs = scheduler()
    jobs.add("brief", "@daily", command="true")
    with pytest.raises(ConfigError, match="brief"):
        jobs.remove("brif")
    jobs.remove("brief")
    assert not jobs.jobs


# ── a year in a second ────────────────────────────────────────────────────────────────────────


def test_a_year_of_a_daily_job_passes() -> None:
    jobs = scheduler()
    called: list[datetime] = []

    @jobs.job("0 8 * * *", timezone="Europe/Berlin")
    def brief(run: Context) -> None:
        assert run.slot is not None
        called.append(run.slot)

    runs = jobs.rehearse(timedelta(days=365))
    assert len(runs) == len(called) == 365
    assert {run.state for run in runs} == {State.SUCCEEDED}
    assert {slot.hour for slot in called} == {6, 7}  # 08:00 in Berlin, summer and winter


def test_retries_happen_when_their_time_comes() -> None:
    jobs = scheduler()
    seen: list[RunRetry] = []
    jobs.on(RunRetry)(seen.append)
    tries = 0

    @jobs.job("0 8 * * *", retries=2, retry_delay="1m")
    def flaky() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("not yet")

    (run,) = jobs.rehearse(DAY)
    assert (run.state, run.attempt, len(seen)) == (State.SUCCEEDED, 3, 2)
    assert seen[0].error == "OSError: not yet"
    assert [attempt["state"] for attempt in run.attempts] == ["failed", "failed"]


def test_a_second_rehearsal_goes_on_where_the_first_ended() -> None:
    jobs = scheduler()
    jobs.add("a", "0 8 * * *", function=lambda: None)
    assert len(jobs.rehearse(2 * DAY)) == 2
    assert [run.run for run in jobs.rehearse(DAY)] == [3]


def test_followers_run_after_what_they_follow() -> None:
    jobs = scheduler()
    order: list[str] = []
    jobs.add("first", "0 8 * * *", function=lambda: order.append("first"))
    jobs.add("second", after="first", function=lambda: order.append("second"))
    jobs.add("sorry", after={"job": "first", "when": "failure"}, function=lambda: order.append("sorry"))
    jobs.rehearse(DAY)
    assert order == ["first", "second"]


def test_time_passes_at_will_only_on_a_fake_clock() -> None:
    jobs = Scheduler()
    with pytest.raises(UsageError, match="FakeClock"):
        jobs.rehearse(DAY)


async def test_elapse_stops_between_slots() -> None:
    jobs = scheduler()
    count: list[int] = []
    jobs.add("a", "0 * * * *", function=lambda: count.append(1))
    async with jobs:
        await jobs.elapse(timedelta(minutes=90))
        assert len(count) == 1
        assert jobs.clock.now() == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
        assert await jobs.coming() == [("a", datetime(2026, 1, 1, 2, tzinfo=UTC))]
        await jobs.elapse(timedelta(minutes=30))
        assert len(count) == 2


# ── callables ─────────────────────────────────────────────────────────────────────────────────


async def _run(jobs: Scheduler, name: str) -> tuple[State, str | None, str]:
    run = await jobs.wait(await jobs.trigger(name))
    return run.state, run.error, await jobs.output(run.run)


async def test_callables_of_every_kind_run_and_fail_alike() -> None:
    jobs = scheduler()

    @jobs.job()
    def plain(run: Context) -> None:
        run.log(f"{run.job} {run.run} {run.slot}")

    @jobs.job()
    async def waiting() -> dict[str, int]:
        await asyncio.sleep(0)
        return {"rows": 3}

    @jobs.job()
    def raising() -> None:
        raise LookupError("no such thing")

    @jobs.job(name="optional")
    async def with_default(context: Context | None = None) -> None:
        assert context is not None
        context.log("given")

    async with jobs:
        assert await _run(jobs, "plain") == (State.SUCCEEDED, None, "plain 1 None\n")
        assert (await _run(jobs, "waiting"))[0] is State.SUCCEEDED
        state, error, output = await _run(jobs, "raising")
        assert (state, error) == (State.FAILED, "LookupError: no such thing")
        assert "Traceback" in output
        assert "in raising" in output
        assert (await _run(jobs, "optional"))[2] == "given\n"


async def test_a_cancelled_callable_is_asked_to_end() -> None:
    jobs = scheduler()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    @jobs.job(timeout=None)
    def patient(run: Context) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert run.wait_cancelled(30)
        assert run.cancelled

    async with jobs:
        run = await jobs.trigger("patient")
        await begun.wait()
        await jobs.cancel(run)
        ended = await jobs.wait(run)
        assert (ended.state, ended.error) == (State.CANCELLED, "cancelled by the program")


# ── callbacks ─────────────────────────────────────────────────────────────────────────────────


async def test_callbacks_hear_what_they_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink()
    jobs = scheduler(sinks=[sink])
    ends: list[str] = []
    everything: list[str] = []
    later = asyncio.Event()

    @jobs.on(RunStart)
    def broken(event: RunStart) -> None:
        raise ValueError("a callback of the user's")

    @jobs.on(RunEnd, RunMissed)
    def ended(event: RunEnd | RunMissed) -> None:
        ends.append(event.job)

    @jobs.on(RunEnd)
    async def awaited(event: RunEnd) -> None:
        await asyncio.sleep(0)
        later.set()

    jobs.on(Event)(lambda event: everything.append(event.event))
    jobs.add("a", function=lambda: None)
    async with jobs:
        await jobs.wait(await jobs.trigger("a"))
        await later.wait()
    assert ends == ["a"]
    assert everything == sink.names() == ["ready", "slot_claimed", "run_start", "run_end", "shutdown"]
    assert "a callback failed on run_start" in caplog.text


# ── life ──────────────────────────────────────────────────────────────────────────────────────


async def taken_in(jobs: Scheduler) -> None:
    """Wait until the scheduler that runs knows of the jobs as they are defined now."""
    async with asyncio.timeout(60):
        while set(jobs._alive.scheduler.roster.entries) != set(jobs.jobs):
            await asyncio.sleep(0)


async def test_methods_of_a_living_scheduler_say_when_it_does_not_live() -> None:
    jobs = scheduler()
    jobs.add("a", function=lambda: None)
    with pytest.raises(Conflict, match="not running"):
        await jobs.trigger("a")
    async with jobs:
        with pytest.raises(Conflict, match="running already"):
            await jobs.__aenter__()
        with pytest.raises(NotFound, match="did you mean a"):
            await jobs.trigger("aa")
        with pytest.raises(NotFound):
            await jobs.output(99)


async def test_jobs_may_come_and_go_while_it_runs() -> None:
    jobs = scheduler()
    called: list[str] = []
    async with jobs:
        jobs.add("new", "0 * * * *", function=lambda: called.append("new"))
        await taken_in(jobs)
        await jobs.elapse(timedelta(hours=1))
        jobs.remove("new")
        await taken_in(jobs)
        await jobs.elapse(timedelta(hours=3))
    assert called == ["new"]


async def test_a_change_that_does_not_fit_is_refused_at_once_and_changes_nothing() -> None:
    jobs = scheduler()
    jobs.add("first", function=lambda: None)
    async with jobs:
        with pytest.raises(ConfigError, match="no such job"):
            jobs.add("lost", after="nobody", function=lambda: None)
        jobs.add("second", after="first", function=lambda: None)
        with pytest.raises(ConfigError, match="no such job"):
            jobs.remove("first")
        assert set(jobs.jobs) == {"first", "second"}
        await taken_in(jobs)
        await jobs.wait(await jobs.trigger("first"))
        while not await jobs.history("second", states=["succeeded"]):
            await asyncio.sleep(0.01)


async def test_pausing_keeps_slots_from_coming_due() -> None:
    jobs = scheduler()
    jobs.add("a", "0 * * * *", function=lambda: None)
    async with jobs:
        assert await jobs.pause("a")
        assert not await jobs.pause("a")
        await jobs.elapse(timedelta(hours=2))
        assert await jobs.history() == []
        assert await jobs.resume("a")
        await jobs.elapse(timedelta(hours=2))
        assert len(await jobs.history("a", states=["succeeded"])) == 2


async def test_a_file_remembers_and_catches_up(tmp_path: Path) -> None:
    clock = FakeClock()

    def program() -> Scheduler:
        jobs = Scheduler(tmp_path / "jobs.db", clock=clock)
        jobs.add("a", "0 8 * * *", function=lambda: None, catchup="all", catchup_window="10d")
        return jobs

    async with program() as first:
        await first.elapse(DAY)
    clock.advance(3 * DAY)
    async with program() as second:
        await second.elapse(timedelta(minutes=1))
        runs = await second.history()
    assert [str(run.trigger) for run in runs] == ["catchup", "catchup", "catchup", "schedule"]
    assert {run.state for run in runs} == {State.SUCCEEDED}


async def test_one_store_has_one_scheduler(tmp_path: Path) -> None:
    async with Scheduler(tmp_path / "jobs.db"):
        with pytest.raises(AlreadyRunning, match="uses this store"):
            async with Scheduler(tmp_path / "jobs.db"):
                raise AssertionError("two")
    async with Scheduler(tmp_path / "jobs.db"):
        pass
    assert not (tmp_path / "jobs.db.lock").exists()


async def test_boot_jobs_fire_once_for_each_life(tmp_path: Path) -> None:
    called: list[str] = []
    for _ in range(2):
        jobs = Scheduler(tmp_path / "jobs.db")
        jobs.add("warm", "@boot", function=lambda: called.append("boot"))
        jobs.add("once", "@reboot", function=lambda: called.append("reboot"))
        async with jobs:
            while await jobs.history(states=["queued", "running"]):
                await asyncio.sleep(0.01)
    assert sorted(called) == ["boot", "boot", "reboot"]


async def test_prune_forgets_runs_and_outputs(tmp_path: Path) -> None:
    clock = FakeClock()
    jobs = Scheduler(tmp_path / "jobs.db", clock=clock)
    jobs.job("0 8 * * *", name="a")(_speak)
    async with jobs:
        await jobs.elapse(40 * DAY)
        files = list((tmp_path / "jobs.db.runs").rglob("*.log"))
        assert len(files) == 40
        assert await jobs.prune(runs="30d", output=timedelta(days=5)) == 10
        assert len(await jobs.history(limit=100)) == 30
        assert len(list((tmp_path / "jobs.db.runs").rglob("*.log"))) == 5


def _sleep(run: Context) -> None:
    run.wait_cancelled(30)


def _speak(run: Context) -> None:
    run.log("said")


async def test_a_store_in_memory_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from echosched.app import engine

    monkeypatch.setattr(engine, "REMEMBERED", 5)
    jobs = Scheduler()
    jobs.add("a", function=lambda: None)
    async with jobs:
        for _ in range(20):
            await jobs.wait(await jobs.trigger("a"))
        async with asyncio.timeout(60):
            while len(await jobs.history()) >= 12:
                await asyncio.sleep(0.01)


def test_errors_in_the_background_reach_whoever_started_it(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_text("not a database, and long enough to be looked at as one " * 20)
    jobs = Scheduler(tmp_path / "missing" / "jobs.db")
    with pytest.raises(Exception, match="missing"), jobs.background():
        raise AssertionError("started")


def test_the_background_answers_blocking_calls() -> None:
    jobs = Scheduler()
    jobs.add("quick", function=lambda: {"n": 1})
    jobs.add("slow", function=_sleep)
    with jobs.background() as running:
        assert running.wait(running.trigger("quick")).state is State.SUCCEEDED
        run = running.trigger("slow")
        with pytest.raises(TimeoutError):
            running.wait(run, timeout=0.05)
        running.cancel(run)
        assert running.wait(run, timeout=30).state is State.CANCELLED
        assert [found.job for found in running.history()] == ["slow", "quick"]
        assert running.coming() == []
        assert running.pause("quick")
        assert running.resume("quick")
        assert running.output(run) == ""
    with pytest.raises(Conflict, match="does not run"):
        running.trigger("quick")
    running.stop()


async def test_the_schedulers_own_thread_may_not_wait_for_itself() -> None:
    jobs = Scheduler()
    refused: list[str] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    background = jobs.background()

    @jobs.on(RunEnd)
    def ended(event: RunEnd) -> None:
        try:
            background.history()
        except Conflict as error:
            refused.append(str(error))
        loop.call_soon_threadsafe(done.set)

    jobs.add("a", function=lambda: None)
    with background as running:
        running.trigger("a")
        await done.wait()
    assert "own thread" in refused[0]


async def test_the_daemons_own_sinks_serve_a_program_too(tmp_path: Path) -> None:
    from echosched.journal import Journal, human, parse
    from echosched.metrics import Metrics

    journal, metrics = Journal(str(tmp_path / "jobs.log")), Metrics()
    jobs = scheduler(sinks=[journal, metrics])
    jobs.add("a", "0 * * * *", function=lambda: None)
    async with jobs:
        await jobs.elapse(timedelta(hours=2))
    journal.close()
    events = [parse(line) for line in (tmp_path / "jobs.log").read_text().splitlines()]
    assert sum(event is not None and event["event"] == "run_end" for event in events) == 2
    assert events[-1] is not None
    assert "shutdown" in human(events[-1])
    assert metrics.snapshot()

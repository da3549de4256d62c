"""Messages to real servers: SMTP, sendmail, HTTP, apprise; delivered once, kept until then."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from echosched import events
from echosched.clock import SystemClock
from echosched.errors import ExecutionError, StoreUnavailable
from echosched.model import CommandAction, Job, Policy
from echosched.notify import Notifier, wanted
from echosched.notify.queue import Pace
from echosched.testing import MemoryStore, RecordingSink

sys.path.insert(0, str(Path(__file__).parent / "notify"))
from notify_sinks import HttpSink, SmtpSink

from tests.certificates import self_signed

sys.path.pop(0)

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
FAST = Pace(settle=0.05, calm=0.05, retry=(0.05, 0.2), leave=1.0)


@dataclass(frozen=True)
class Target:
    name: str
    kind: str
    options: dict[str, Any]
    on: tuple[str, ...] = ("failure", "recovery", "missed", "abandoned")
    default: bool = True


@dataclass
class Desk:
    """A notifier and what is around it."""

    path: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    sink: RecordingSink = field(default_factory=RecordingSink)
    secrets: dict[str, str] = field(default_factory=dict)
    notifiers: list[Notifier] = field(default_factory=list)

    def resolve(self, text: str) -> str:
        for name, value in self.secrets.items():
            text = text.replace("${env:" + name + "}", value)
        if "${env:" in text:
            raise ExecutionError(f"{text}: not set in the daemon's environment")
        return text

    def redact(self, text: str) -> str:
        for value in self.secrets.values():
            text = text.replace(value, "[secret]")
        return text

    async def open(
        self, *targets: Target, jobs: dict[str, Job] | None = None, pace: Pace = FAST, **more
    ) -> Notifier:
        notifier = Notifier(
            {target.name: target for target in targets}, jobs or {}, clock=SystemClock(), emit=self.sink.emit,
            get_note=self.store.get_note, set_note=self.store.set_note, resolve=self.resolve, redact=self.redact,
            output_path=lambda run, attempt: self.path / f"{run}.{attempt}.log", host="testhost", pace=pace, **more,
        )  # fmt: skip
        self.notifiers.append(notifier)
        await notifier.start()
        return notifier


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    found = Desk(tmp_path)
    yield found
    for notifier in found.notifiers:
        await notifier.close()


async def until(check: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "nothing came in time"
        await asyncio.sleep(0.01)


def end(state: str = "failed", *, run: int = 1, job: str = "backup", **more: Any) -> events.RunEnd:
    values = {"exit_code": 3, "signal": None, "duration_seconds": 1.0, "lag_seconds": 0.0, "error": None}
    base = {
        "ts": AT + timedelta(minutes=run),
        "job": job,
        "run": run,
        "slot": AT,
        "attempt": 1,
        "trigger": "schedule",
    }
    return events.RunEnd(**base, state=state, **{**values, **more})


def start(run: int = 1, job: str = "backup") -> events.RunStart:
    return events.RunStart(ts=AT, job=job, run=run, slot=AT, attempt=1, trigger="schedule")


# ── mail ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_failure_is_mailed_with_the_end_of_its_output_and_no_secret(desk):
    desk.secrets["PASSWORD"] = "hunter2hunter2"
    (desk.path / "1.1.log").write_text(
        "\n".join(f"line {n}" for n in range(200)) + "\npassword hunter2hunter2\n"
    )
    async with SmtpSink() as smtp:
        options = {
            "to": ("ops@example.org", "${env:WHO}"),
            "smtp": f"127.0.0.1:{smtp.port}",
            "from": "echo@example.org",
        }
        desk.secrets["WHO"] = "dba@example.org"
        notifier = await desk.open(Target("team", "mail", options))
        notifier.emit(end(error="hunter2hunter2 refused", output_bytes=999))
        await until(lambda: smtp.mails)
    (mail,) = smtp.mails
    assert mail["Subject"] == "[testhost] backup failed"
    assert smtp.envelopes == [("echo@example.org", ("ops@example.org", "dba@example.org"))]
    text = mail.get_content()
    assert "line 199" in text
    assert "line 100" not in text
    assert "[secret] refused" in text
    assert "hunter2" not in mail.as_string()
    await until(lambda: notifier.pending == 0)
    assert desk.sink.events == []


async def test_failures_in_a_row_are_one_mail_and_the_recovery_another(desk):
    async with SmtpSink() as smtp:
        notifier = await desk.open(Target("team", "mail", {"to": ("a@x",), "smtp": f"127.0.0.1:{smtp.port}"}))
        notifier.emit(end(run=1))
        await until(lambda: smtp.mails)
        for run in range(2, 6):
            notifier.emit(end(run=run))
        notifier.emit(end("succeeded", run=6))
        notifier.emit(end("succeeded", run=7))
        await until(lambda: len(smtp.mails) == 2)
        await asyncio.sleep(0.2)
    assert [mail["Subject"] for mail in smtp.mails] == [
        "[testhost] backup failed", "[testhost] backup works again after 5 failures"
    ]  # fmt: skip


async def test_a_storm_is_one_summary(desk):
    async with SmtpSink() as smtp:
        notifier = await desk.open(Target("team", "mail", {"to": ("a@x",), "smtp": f"127.0.0.1:{smtp.port}"}))
        for number in range(40):
            notifier.emit(end(run=number, job=f"job{number}"))
        await until(lambda: smtp.mails)
        await until(lambda: notifier.pending == 0)
    (mail,) = smtp.mails
    assert mail["Subject"] == "[testhost] 40 messages: 40 failure"
    assert "job39 failed" in mail.get_content()


async def test_a_server_that_refuses_gets_the_mail_when_it_takes_it(desk):
    async with SmtpSink(answers={"MAIL": "451 greylisted, try later"}) as smtp:
        notifier = await desk.open(Target("team", "mail", {"to": ("a@x",), "smtp": f"127.0.0.1:{smtp.port}"}))
        notifier.emit(end())
        await until(lambda: desk.sink.events)
        await asyncio.sleep(0.5)
        (failed,) = desk.sink.of(events.NotifyFailed)  # told once, not once a try
        assert failed.target == "team"
        assert "451 greylisted" in failed.reason
        assert notifier.pending == 1
        smtp.answers.clear()
        await until(lambda: notifier.pending == 0)
    assert len(smtp.mails) == 1


async def test_recipients_that_are_refused_do_not_make_the_others_read_it_twice(desk):
    async with SmtpSink(refused={"gone@x"}) as smtp:
        notifier = await desk.open(
            Target("team", "mail", {"to": ("a@x", "gone@x"), "smtp": f"127.0.0.1:{smtp.port}"})
        )
        notifier.emit(end())
        await until(lambda: desk.sink.events)
        await until(lambda: notifier.pending == 0)
        await asyncio.sleep(0.3)
    assert len(smtp.mails) == 1
    (failed,) = desk.sink.of(events.NotifyFailed)
    assert failed.final
    assert "gone@x: 550" in failed.reason


async def test_a_silent_server_costs_a_time_out_and_never_the_loop(desk):
    async with SmtpSink(silent=True) as smtp:
        options = {"to": ("a@x",), "smtp": f"127.0.0.1:{smtp.port}", "timeout": timedelta(seconds=2.5)}
        notifier = await desk.open(Target("team", "mail", options))
        notifier.emit(end())
        await until(lambda: smtp.came)
        turns = 0
        while not desk.sink.events:  # the server is silent, and the loop turns
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10
    assert "no answer within 2.5 s" in desk.sink.events[0].reason or "timed out" in desk.sink.events[0].reason


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    cert, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


async def test_starttls_with_a_login(desk, certificate, monkeypatch):
    cert, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    desk.secrets["MAILPASS"] = "s3cret-pass"
    async with SmtpSink(tls=context) as smtp:
        options = {
            "to": ("a@x",), "smtp": f"localhost:{smtp.port}", "smtp_tls": "starttls", "smtp_user": "u",
            "smtp_password": "${env:MAILPASS}",
        }  # fmt: skip
        notifier = await desk.open(Target("team", "mail", options))
        notifier.emit(end())
        await until(lambda: smtp.mails or desk.sink.events)
        await until(lambda: notifier.pending == 0)
    assert smtp.logins == ["\0u\0s3cret-pass"]


async def test_a_certificate_that_nobody_vouches_for_is_refused(desk, certificate):
    _, context = certificate
    async with SmtpSink(tls=context) as smtp:
        options = {"to": ("a@x",), "smtp": f"localhost:{smtp.port}", "smtp_tls": "starttls"}
        notifier = await desk.open(Target("team", "mail", options))
        notifier.emit(end())
        await until(lambda: desk.sink.events)
    assert "certificate verify failed" in desk.sink.events[0].reason
    assert not smtp.mails
    assert notifier.pending == 1


def sendmail(path: Path, code: int = 0) -> Path:
    """Write a sendmail that keeps what it gets, or fails."""
    program = path / "sendmail"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {path}/args\ncat > {path}/mail\nenv > {path}/env\necho "no queue" >&2\nexit {code}\n'
    )
    program.chmod(0o755)
    return program


async def test_sendmail_gets_the_mail_and_no_environment(desk, monkeypatch):
    monkeypatch.setenv("DASHBOARD_KEY", "from-the-daemon")
    options = {"to": ("-oQ/tmp@x", "b@x"), "sendmail": str(sendmail(desk.path))}
    notifier = await desk.open(Target("team", "mail", options))
    notifier.emit(end())
    await until(lambda: (desk.path / "env").exists())
    await until(lambda: notifier.pending == 0)
    assert (desk.path / "args").read_text() == "-i -- -oQ/tmp@x b@x\n"
    assert "Subject: [testhost] backup failed\n" in (desk.path / "mail").read_text()
    assert "from-the-daemon" not in (desk.path / "env").read_text()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("failing", "exit code 75: no queue"),
        ("/nowhere/sendmail", "/nowhere/sendmail: No such file or directory"),
    ],
)
async def test_a_sendmail_that_fails_says_why(desk, program, reason):
    path = str(sendmail(desk.path, 75)) if program == "failing" else program
    notifier = await desk.open(Target("team", "mail", {"to": ("a@x",), "sendmail": path}))
    notifier.emit(end())
    await until(lambda: desk.sink.events)
    assert reason in desk.sink.events[0].reason
    assert notifier.pending == 1


async def test_mailto_mails_whatever_a_run_prints_and_nothing_else(desk):
    (desk.path / "1.1.log").write_text("all the output\n" * 100)
    (desk.path / "3.1.log").write_text("second\n")
    async with SmtpSink() as smtp:
        options = {"to": ("root@x",), "smtp": f"127.0.0.1:{smtp.port}"}
        mailto = Target("mailto-root", "mail", options, on=("output",), default=False)
        jobs = {
            "backup": Job("backup", CommandAction("x"), policy=Policy(notify=("mailto-root",))),
            "other": Job("other", CommandAction("x")),
        }
        notifier = await desk.open(mailto, jobs=jobs)
        notifier.emit(end("succeeded", run=1, output_bytes=1500))
        notifier.emit(end("failed", run=2, output_bytes=0))
        notifier.emit(end("failed", run=3, output_bytes=7))
        notifier.emit(end("failed", run=4, job="other", output_bytes=7))
        await until(lambda: len(smtp.mails) == 2)
        await until(lambda: notifier.pending == 0)
    assert [mail["Subject"] for mail in smtp.mails] == [
        "[testhost] backup printed something", "[testhost] backup printed something and failed"
    ]  # fmt: skip
    assert smtp.mails[0].get_content().count("all the output") == 100


async def test_output_does_not_wait_for_the_calm_after_a_summary(desk):
    (desk.path / "9.1.log").write_text("printed\n")
    async with HttpSink() as http:
        pace = Pace(settle=0.0, calm=600, leave=0.2)
        notifier = await desk.open(
            Target("chat", "webhook", {"url": http.url}, on=("failure", "output")), pace=pace
        )
        notifier.emit(end(job="a"))
        await until(lambda: http.hits)
        notifier.emit(end(job="b"))
        notifier.emit(end("succeeded", run=9, output_bytes=8))
        await until(lambda: len(http.hits) == 2)
        assert json.loads(http.hits[1].body)["event"] == "output"
        assert notifier.pending == 1


# ── webhook ───────────────────────────────────────────────────────────────────────────────────


async def test_a_webhook_gets_json(desk):
    async with HttpSink() as http:
        desk.secrets["TOKEN"] = "tok-123456"
        options = {
            "url": f"{http.url}/hook/${{env:TOKEN}}",
            "headers": (("Authorization", "Bearer ${env:TOKEN}"),),
        }
        notifier = await desk.open(Target("chat", "webhook", options))
        notifier.emit(end(error="refused"))
        await until(lambda: http.hits)
        await until(lambda: notifier.pending == 0)
    (hit,) = http.hits
    assert (hit.method, hit.path) == ("POST", "/hook/tok-123456")
    assert hit.headers["authorization"] == "Bearer tok-123456"
    assert hit.headers["content-type"] == "application/json"
    told = json.loads(hit.body)
    assert (told["event"], told["job"], told["run"], told["exit_code"], told["why"]) == (
        "failure",
        "backup",
        1,
        3,
        "refused",
    )
    assert told["slot"] == "2026-11-21T08:00:00.000000Z"


async def test_a_template_is_filled_and_output_cannot_ask_for_secrets(desk):
    desk.secrets["TOKEN"] = "tok-123456"
    (desk.path / "1.1.log").write_text('"},{"${env:TOKEN} $job\n')
    async with HttpSink() as http:
        options = {
            "url": http.url,
            "method": "put",
            "template": '{"content": "$summary: $output", "key": "${env:TOKEN}"}',
        }
        notifier = await desk.open(Target("chat", "webhook", options))
        notifier.emit(end(output_bytes=9))
        await until(lambda: http.hits)
        await until(lambda: notifier.pending == 0)
    assert http.hits[0].method == "PUT"
    assert json.loads(http.hits[0].body) == {
        "content": 'backup failed: "},{"${env:TOKEN} $job', "key": "tok-123456"
    }  # fmt: skip


@pytest.mark.parametrize("manner", ["hang", "drip", "garbage", "redirect", "refuse", "500"])
async def test_a_bad_server_is_tried_again_and_its_url_is_never_told(desk, manner):
    async with HttpSink(manner=manner if manner not in ("refuse", "500") else "answer") as http:
        http.statuses = {"redirect": [302], "500": [500]}.get(manner, [200])
        url = f"http://127.0.0.1:{http.port if manner != 'refuse' else 1}/secret-path?key=secret"
        options = {"url": url, "timeout": timedelta(seconds=0.3)}
        notifier = await desk.open(Target("chat", "webhook", options))
        notifier.emit(end())
        await until(lambda: desk.sink.events)
        reason = desk.sink.events[0].reason
        assert reason.startswith("127.0.0.1: ")
        assert "secret" not in reason
        assert notifier.pending == 1
        assert not [hit for hit in http.hits if hit.path == "/elsewhere"]
        http.manner, http.statuses = "answer", [202]
        notifier.reload({"chat": Target("chat", "webhook", {"url": http.url})}, {})
        await until(lambda: notifier.pending == 0)


async def test_a_missing_secret_is_told_and_the_message_waits(desk):
    notifier = await desk.open(Target("chat", "webhook", {"url": "${env:NOWHERE}"}))
    notifier.emit(end())
    await until(lambda: desk.sink.events)
    assert "not set in the daemon's environment" in desk.sink.events[0].reason
    assert notifier.pending == 1


# ── healthchecks ──────────────────────────────────────────────────────────────────────────────


async def test_a_watcher_is_pinged_at_start_success_and_failure_with_output(desk):
    (desk.path / "2.1.log").write_text("what went wrong\n")
    async with HttpSink() as http:
        jobs = {"backup": Job("backup", CommandAction("x"), policy=Policy(healthcheck=f"{http.url}/uuid-1"))}
        assert wanted({}, jobs)
        notifier = await desk.open(jobs=jobs)
        for event in (start(1), end("succeeded", run=1), start(2), end("failed", run=2, output_bytes=16)):
            notifier.emit(event)
            await until(lambda: notifier.pending == 0)
    assert [(hit.method, hit.path) for hit in http.hits] == [
        ("POST", "/uuid-1/start"), ("POST", "/uuid-1"), ("POST", "/uuid-1/start"), ("POST", "/uuid-1/fail")
    ]  # fmt: skip
    assert http.hits[3].body == b"what went wrong"


async def test_a_watcher_that_was_away_gets_the_newest_pings(desk):
    async with HttpSink(statuses=[503]) as http:
        notifier = await desk.open(Target("watch", "healthchecks", {"url": http.url + "/{job}"}, on=()))
        for run in range(50):
            notifier.emit(start(run))
            notifier.emit(end("succeeded", run=run))
        await until(lambda: desk.sink.events)
        assert desk.sink.events[0].target == "watch"
        http.hits.clear()
        http.statuses = [200]
        await until(lambda: notifier.pending == 0)
    assert [hit.path for hit in http.hits][-2:] == ["/backup/start", "/backup"]
    assert len(http.hits) <= 6


# ── apprise ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is not installed")
async def test_apprise_sends_from_a_child_process(desk):
    async with HttpSink() as http:
        options = {"url": (f"json://127.0.0.1:{http.port}/x",), "timeout": timedelta(seconds=30)}
        notifier = await desk.open(Target("any", "apprise", options))
        notifier.emit(end())
        await until(lambda: http.hits or desk.sink.events)
        await until(lambda: notifier.pending == 0)
    told = json.loads(http.hits[0].body)
    assert told["title"] == "[testhost] backup failed"
    assert told["type"] == "failure"
    assert "apprise" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is not installed")
async def test_apprise_says_which_url_it_does_not_know(desk):
    options = {"url": ("nonsense://secret-token",), "timeout": timedelta(seconds=30)}
    notifier = await desk.open(Target("any", "apprise", options))
    notifier.emit(end())
    await until(lambda: desk.sink.events)
    assert desk.sink.events[0].reason == "apprise: url 1: not understood by apprise"


# ── keeping ───────────────────────────────────────────────────────────────────────────────────


async def test_pending_messages_and_conditions_survive_a_restart(desk):
    async with HttpSink(statuses=[500]) as http:
        target = Target("chat", "webhook", {"url": http.url})
        jobs = {name: Job(name, CommandAction("x")) for name in ("a", "b")}
        first = await desk.open(target, jobs=jobs)
        first.emit(end(job="a"))
        first.emit(end(job="b"))
        await until(lambda: desk.sink.events)
        await first.close()
        assert first.pending == 2
        http.hits.clear()
        http.statuses = [200]
        second = await desk.open(target, jobs=jobs)
        await until(lambda: second.pending == 0)
        assert [fact["job"] for fact in json.loads(http.hits[0].body)["messages"]] == ["a", "b"]
        second.emit(end("failed", job="a", run=9))
        second.emit(end("succeeded", job="a", run=10))
        await until(lambda: len(http.hits) == 2)
        told = json.loads(http.hits[1].body)
        assert (told["event"], told["count"]) == ("recovery", 2)
        await second.close()
        third = await desk.open(target, jobs=jobs)
        await asyncio.sleep(0.2)
        assert third.pending == 0
        assert len(http.hits) == 2


async def test_a_crash_before_delivery_loses_no_message(desk):
    """The message is written down before anything is sent: a worker killed in between leaves it to the next."""
    async with HttpSink(manner="hang") as http:
        target = Target("chat", "webhook", {"url": http.url})
        first = await desk.open(target)
        first.emit(end())
        await until(lambda: http.hits)
        note = await desk.store.get_note("notify")
        assert json.loads(note)["pending"][0]["job"] == "backup"
        http.manner = "answer"
        second = await desk.open(target)
        await until(lambda: second.pending == 0)
    assert len(http.hits) == 2


async def test_a_stop_right_after_a_failure_still_sends_it(desk):
    async with HttpSink() as http:
        notifier = await desk.open(
            Target("chat", "webhook", {"url": http.url}), pace=Pace(settle=60, calm=60, leave=60)
        )
        notifier.emit(end())
        await notifier.close()
    assert len(http.hits) == 1
    assert json.loads(await desk.store.get_note("notify") or '{"pending": []}')["pending"] == []


async def test_a_stop_waits_only_shortly_for_a_hanging_server(desk):
    async with HttpSink(manner="hang") as http:
        options = {"url": http.url, "timeout": timedelta(minutes=2)}
        notifier = await desk.open(Target("chat", "webhook", options), pace=Pace(settle=0, leave=0.3))
        notifier.emit(end())
        await until(lambda: http.hits)
        began = time.monotonic()
        await notifier.close()
        assert time.monotonic() - began < 20
        assert json.loads(await desk.store.get_note("notify"))["pending"][0]["job"] == "backup"


async def test_resend_tries_at_once_whatever_the_back_off(desk):
    async with HttpSink(statuses=[500]) as http:
        pace = Pace(settle=0.0, calm=60, retry=(600, 600), leave=0.5)
        notifier = await desk.open(Target("chat", "webhook", {"url": http.url}), pace=pace)
        notifier.emit(end())
        await until(lambda: desk.sink.events)
        assert await notifier.resend() == 0
        http.statuses = [200]
        assert await notifier.resend() == 1
        assert notifier.pending == 0
        assert await notifier.resend() == 0


async def test_a_store_that_fails_delays_no_message(desk):
    async with HttpSink() as http:
        desk.store.fault = StoreUnavailable("echosched.db: disk full")
        notifier = await desk.open(Target("chat", "webhook", {"url": http.url}))
        notifier.emit(end())
        await until(lambda: notifier.pending == 0 and http.hits)
        desk.store.fault = None
        notifier.emit(end("succeeded", run=2))
        await until(lambda: len(http.hits) == 2)


@pytest.mark.parametrize("note", ["{", "[]", '{"pending": [{"at": 1}]}', '{"conditions": {"backup": 3}}'])
async def test_a_note_that_nobody_understands_stops_nothing(desk, note):
    await desk.store.set_note("notify", note)
    async with HttpSink() as http:
        notifier = await desk.open(
            Target("chat", "webhook", {"url": http.url}), jobs={"backup": Job("backup", CommandAction("x"))}
        )
        notifier.emit(end())
        await until(lambda: http.hits)
        await until(lambda: notifier.pending == 0)


async def test_an_overdue_job_is_told_without_any_event(desk):
    async with HttpSink() as http:
        now = datetime.now(UTC)
        slots = iter([now - timedelta(minutes=5) + timedelta(seconds=0.3), now + timedelta(days=1)])
        notifier = await desk.open(
            Target("chat", "webhook", {"url": http.url}, on=("overdue",)),
            jobs={"backup": Job("backup", CommandAction("x"))},
            next_slot=lambda job: next(slots),
        )
        notifier.emit(events.Ready(ts=now, pid=os.getpid(), jobs=1))
        await until(lambda: http.hits)
        await until(lambda: notifier.pending == 0)
    assert json.loads(http.hits[0].body)["event"] == "overdue"


async def test_an_event_that_nobody_wants_costs_microseconds(desk):
    async with HttpSink() as http:
        notifier = await desk.open(Target("chat", "webhook", {"url": http.url}))
        begin, done = start(), end("succeeded")
        began = time.process_time()
        for _ in range(20_000):
            notifier.emit(begin)
            notifier.emit(done)
        each = (time.process_time() - began) / 40_000
    assert each < 10e-6  # measured: 0.3 µs

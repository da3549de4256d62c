"""The words of messages, and what each kind makes of them."""

from __future__ import annotations

import email
import email.policy
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echosched.notify import DeliveryError
from echosched.notify.healthchecks import address
from echosched.notify.mail import _server, compose
from echosched.notify.message import Message, headline, letter, one_line, plain
from echosched.notify.output import tail, whole
from echosched.notify.queue import Queue
from echosched.notify.webhook import fill

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def message(occasion: str = "failure", **given) -> Message:
    values = {
        "job": "backup",
        "at": AT,
        "run": 7,
        "slot": AT,
        "trigger": "schedule",
        "state": "failed",
        "exit_code": 3,
    }
    return Message(target="team", occasion=occasion, **{**values, **given})


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (message(), "backup failed"),
        (message(state="timed_out", count=4), "backup timed out 4 times"),
        (message(state=None), "backup does not work"),
        (message(job="", state=None), "the scheduler does not work"),
        (message("recovery", count=1), "backup works again after 1 failure"),
        (message("recovery", count=0), "backup runs again"),
        (message("missed", count=12), "backup missed 12 slots"),
        (message("abandoned"), "backup was abandoned"),
        (message("slow"), "backup is slow"),
        (message("overdue"), "backup is overdue"),
        (message("success", state="succeeded"), "backup succeeded"),
        (message("output", state="succeeded"), "backup printed something"),
        (message("output", state="timed_out"), "backup printed something and timed out"),
    ],
)
def test_headlines(made, told):
    assert headline(made) == told


def test_one_message_tells_everything():
    words = letter(
        [message(why="exit code 3", attempt=2, duration_seconds=61.25)], {7: "a\nb\n"}, host="web1"
    )
    assert words.subject == "[web1] backup failed"
    assert words.text.splitlines() == [
        "backup failed.",
        "Why: exit code 3",
        "Run 7, attempt 2, by schedule, exit code 3",
        "Slot: 2026-11-21 08:00:00 UTC",
        "Took: 0:01:01",
        "At: 2026-11-21 08:00:00 UTC, on web1",
        "",
        "Output:",
        "a",
        "b",
    ]
    assert words.facts["event"] == "failure"
    assert words.facts["output"] == "a\nb\n"
    assert "target" not in words.facts


def test_several_messages_are_one_summary():
    words = letter(
        [message(), message(job="mail", run=8), message("missed", job="x", run=9)], {8: "oops"}, host="h"
    )
    assert words.subject == "[h] 3 messages: 2 failure, 1 missed"
    assert "oops" in words.text
    assert [fact["job"] for fact in words.facts["messages"]] == ["backup", "mail", "x"]


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text())
def test_no_text_can_break_into_a_mails_headers(name, why):
    words = letter([message(job=name or "x", why=why)], {7: why}, host="h")
    mail = compose(words, ["a@example.org"], {})
    read = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert set(read.keys()) == {
        "Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "X-EchoSched-Job", "X-EchoSched-Event",
        "Content-Type", "Content-Transfer-Encoding", "MIME-Version",
    }  # fmt: skip
    assert read["To"] == "a@example.org"


def test_the_same_message_has_the_same_id_at_every_try():
    words = letter([message()], {}, host="h")
    again = letter([Message.from_dict(message().as_dict())], {}, host="h")
    assert compose(words, ["a"], {})["Message-ID"] == compose(again, ["a"], {})["Message-ID"]
    other = letter([message(run=8)], {}, host="h")
    assert compose(words, ["a"], {})["Message-ID"] != compose(other, ["a"], {})["Message-ID"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"smtp": "mx"}, ("mx", 25, "none")),
        ({"smtp": "mx:587"}, ("mx", 587, "starttls")),
        ({"smtp": "mx:465"}, ("mx", 465, "tls")),
        ({"smtp": "mx", "smtp_tls": "tls"}, ("mx", 465, "tls")),
        ({"smtp": "mx", "smtp_tls": "starttls"}, ("mx", 587, "starttls")),
        ({"smtp": "mx:587", "smtp_tls": "none"}, ("mx", 587, "none")),
        ({"smtp": "[::1]:2525"}, ("::1", 2525, "none")),
        ({"smtp": "::1"}, ("::1", 25, "none")),
    ],
)
def test_smtp_addresses(settings, found):
    assert _server(settings) == found


FACTS = {
    "event": "failure",
    "job": 'a"b',
    "run": 7,
    "text": 'line\n"two"',
    "output": "$job ${env:SECRET}",
    "at": "x",
}


def test_without_a_template_the_body_is_json():
    body, kind = fill(None, FACTS)
    assert json.loads(body) == FACTS
    assert kind == "application/json"


def test_a_json_template_stays_json_whatever_is_put_in():
    body, kind = fill('{"text": "$text", "n": $run, "o": "${output}", "price": "$$5", "why": "$why"}', FACTS)
    assert json.loads(body) == {
        "text": 'line\n"two"', "n": 7, "o": "$job ${env:SECRET}", "price": "$5", "why": ""
    }  # fmt: skip
    assert kind == "application/json"


@given(st.text())
def test_a_json_template_holds_any_output(output):
    body, _ = fill('{"o": "$output"}', {**FACTS, "output": output})
    assert json.loads(body) == {"o": output}


def test_a_text_template_is_text():
    assert fill("$job: $text", FACTS) == (b'a"b: line\n"two"', "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("template", "why"), [("$nothing", r"\$nothing: no such field"), ("5 $", "stands alone")]
)
def test_a_wrong_template_is_named(template, why):
    with pytest.raises(DeliveryError, match=why):
        fill(template, FACTS)


@pytest.mark.parametrize(
    ("url", "occasion", "state", "found"),
    [
        ("https://hc/abc", "start", None, "https://hc/abc/start"),
        ("https://hc/abc/", "ended", "failed", "https://hc/abc/fail"),
        ("https://hc/abc", "ended", "succeeded", "https://hc/abc"),
        ("https://hc/k/{job}?create=1", "ended", "timed_out", "https://hc/k/a%2Fb/fail?create=1"),
    ],
)
def test_pings_go_to_the_right_address(url, occasion, state, found):
    assert address(url, "a/b", occasion, state) == found


def test_plain_text_moves_no_cursor():
    assert plain("\x1b[31mred\x1b[0m\r\nnext\ttab\x07\u202e") == "red\nnext\ttab\ufffd\ufffd"
    assert one_line("a\r\nBcc: x\x00 y") == "a Bcc: x y"
    assert len(one_line("x" * 999)) == 200


def test_a_secret_is_masked_even_where_the_output_is_cut(tmp_path):
    path = tmp_path / "out"
    secret = "correct-horse-battery"
    for before in range(8 * 1024 - 40, 8 * 1024 + 10):
        path.write_text("." * 100 + secret + "x" * before)
        found = tail(path, lambda text: text.replace(secret, "[secret]"))
        assert "battery" not in found
    path.write_text("y" * (1024 * 1024 - 10) + secret + "z" * 100)
    assert "correct" not in whole(path, lambda text: text.replace(secret, "[secret]"))


def test_the_whole_output_has_a_limit_and_says_so(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"a" * 3_000_000)
    found = whole(path, str)
    assert len(found) < 1_100_000
    assert found.endswith("(… 3000000 bytes in all)")
    assert whole(tmp_path / "none", str) == ""


def test_a_queue_takes_letters_together_and_pings_and_outputs_alone():
    class Target:
        name, kind, on, default, options = "team", "mail", (), True, {}

    queue = Queue(Target())
    for occasion in ("failure", "output", "missed", "start"):
        queue.add(message(occasion, job=occasion))
    assert [m.occasion for m in queue.take(1.0)] == ["failure", "missed"]
    queue.put_back()
    assert [m.occasion for m in queue.waiting] == ["failure", "missed", "output", "start"]
    queue.calm_until = 9.0
    assert queue.delay(1.0) == 0.0
    assert [m.occasion for m in queue.take(1.0)] == ["output"]
    assert [m.occasion for m in queue.take(1.0)] == ["start"]
    assert queue.delay(1.0) == 8.0
    queue.retry_at = 99.0
    queue.add(message("output"))
    assert queue.delay(1.0) == 98.0
    queue.hurry()
    assert queue.delay(1.0) == 0.0
    queue.waiting.clear()
    for number in range(2000):
        queue.add(message("failure", run=number))
    assert len(queue.waiting) == 1000
    assert queue.waiting[0].run == 1000
    queue.waiting.clear()
    for number in range(20):
        queue.add(message("start", run=number))
    assert [m.run for m in queue.waiting] == [16, 17, 18, 19]


def test_news_replaces_an_unread_message_and_nothing_else():
    class Target:
        name, kind, on, default, options = "team", "mail", (), True, {}

    queue = Queue(Target())
    queue.add(message("missed", again=True, count=2))
    assert not queue.waiting
    queue.add(message("missed"))
    queue.add(message("missed", again=True, count=2))
    assert [(m.count, m.again) for m in queue.waiting] == [(2, False)]

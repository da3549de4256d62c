from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echosched.daemon import children as tables
from echosched.daemon import proc, wire, worker
from echosched.daemon.link import Child, WorkerLink

HELLO: dict[str, Any] = {
    "children": [["7.1", 99, 5, None], ["8.1", 98, 4, -9]],
    "standby": True,
    "restarts": 2,
    "beat": "/x.beat",
    "out": "/x.out",
    "mode": "background",
}


@pytest.fixture
def pair() -> Iterator[tuple[worker.Worker, WorkerLink]]:
    """Give both ends, in one process."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    supervisor = worker.Worker(os.getpid(), ours, 0.0)
    supervisor.send("hello", **HELLO)
    link = WorkerLink(theirs, os.getpid())
    yield supervisor, link
    link.close()
    supervisor.close()


def test_the_first_message_tells_the_worker_what_it_inherits(pair: tuple[worker.Worker, WorkerLink]) -> None:
    _, link = pair
    assert [(c.tag, c.pid, c.start_ticks, c.status) for c in link.children] == [
        ("7.1", 99, 5, None),
        ("8.1", 98, 4, -9),
    ]
    assert (link.standby, link.restarts, link.beat_path, link.mode) == (True, 2, "/x.beat", "background")


def test_messages_arrive_whole_and_in_order(pair: tuple[worker.Worker, WorkerLink]) -> None:
    supervisor, link = pair
    assert link.receive() == []
    supervisor.send("reload")
    supervisor.send("stop", signal="SIGTERM", immediate=True, keep_jobs=True, grace=2.5)
    supervisor.send("child_exit", tag="7.1", pid=99, ticks=5, status=3)
    supervisor.send("go", children=[["9.1", 97, 3, None]])
    reload, stop, ended, go = link.receive()
    assert reload.op == "reload"
    assert (stop.op, stop.signal, stop.immediate, stop.keep_jobs, stop.grace) == (
        "stop",
        "SIGTERM",
        True,
        True,
        2.5,
    )
    assert ended.child is not None
    assert (ended.child.tag, ended.child.status) == ("7.1", 3)
    assert go.op == "go"
    assert not link.standby
    assert [child.tag for child in link.children] == ["9.1"]
    supervisor.close()
    assert [message.op for message in link.receive()] == ["eof"]
    assert link.receive() == []


def test_reports_reach_the_supervisor(pair: tuple[worker.Worker, WorkerLink]) -> None:
    supervisor, link = pair
    link.ready("warm")
    link.report_child('odd "tag"', 12, 34)
    link.acknowledge((12, 34), (13, 35))
    link.failed(6, "bad\nworse")
    link.reloading()
    link.reloaded({"grace": 3})
    link.status("busy")
    assert supervisor.read() == [
        {"op": "ready", "status": "warm"},
        {"op": "child", "tag": 'odd "tag"', "pid": 12, "ticks": 34},
        {"op": "ack", "pid": 12, "ticks": 34},
        {"op": "ack", "pid": 13, "ticks": 35},
        {"op": "failed", "exit_code": 6, "message": "bad\nworse"},
        {"op": "reloading"},
        {"op": "reloaded", "settings": {"grace": 3}},
        {"op": "status", "text": "busy"},
    ]


def test_a_supervisor_that_does_not_read_blocks_no_spawner_and_loses_nothing(
    pair: tuple[worker.Worker, WorkerLink],
) -> None:
    supervisor, link = pair

    def spawner(first: int) -> None:
        for number in range(first, first + 2000):
            link.report_child(f"{number}.1", number, number)

    threads = [threading.Thread(target=spawner, args=(first,)) for first in (0, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    pids: list[int] = []
    while len(pids) < 4000:
        before = len(pids)
        pids += [message["pid"] for message in supervisor.read()]
        link.receive()  # the loop goes round: what waited is sent
        assert len(pids) > before
    assert sorted(pids) == list(range(4000))


def test_a_worker_that_does_not_read_blocks_no_supervisor(pair: tuple[worker.Worker, WorkerLink]) -> None:
    supervisor, link = pair
    for number in range(20_000):
        supervisor.send("child_exit", tag="7.1", pid=number, ticks=5, status=0)
    assert supervisor.wants_to_write
    received = []
    while len(received) < 20_000:
        received += link.receive()
        supervisor.flush()
    assert [message.child.pid for message in received if message.child] == list(range(20_000))
    assert not supervisor.wants_to_write


def test_what_a_dead_worker_said_last_is_still_heard(pair: tuple[worker.Worker, WorkerLink]) -> None:
    supervisor, link = pair
    link.report_child("7.1", 12, 34)
    link.close()
    assert [message["op"] for message in supervisor.read()] == ["child"]
    assert supervisor.channel is None
    link.report_child("7.2", 13, 35)  # nobody listens: no error


def test_a_worker_is_handed_on_with_half_a_line(pair: tuple[worker.Worker, WorkerLink]) -> None:
    supervisor, link = pair
    link._channel.send(b'{"op":"ready","sta')
    assert supervisor.read() == []
    document = supervisor.as_dict()
    duplicate = worker.Worker.from_dict({**document, "channel": os.dup(document["channel"])})
    link._channel.send(b'tus":"x"}\n')
    assert duplicate.read() == [{"op": "ready", "status": "x"}]
    duplicate.close()


def test_no_link_where_no_supervisor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(wire.CHANNEL_VARIABLE, raising=False)
    monkeypatch.delenv(wire.SOLO_VARIABLE, raising=False)
    assert WorkerLink.from_environment() is None


def test_a_worker_whose_supervisor_died_before_it_was_up_leaves_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    root = Path(__file__).resolve().parents[3]
    script = (
        "from echosched.daemon.link import WorkerLink; WorkerLink.from_environment(); print('still here')"
    )
    with theirs:
        done = subprocess.run(
            [sys.executable, "-c", script],
            pass_fds=[theirs.fileno()],
            env={**os.environ, wire.CHANNEL_VARIABLE: f"{theirs.fileno()}:{os.getpid()}"},
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "")


# ── the children table ────────────────────────────────────────────────────────────────────────


def test_a_child_is_held_until_acknowledged() -> None:
    table = tables.Children()
    table.report("7.1", 99, 5)
    assert table.knows(99)
    ended = table.ended(99, 5, 42)
    assert ended is not None
    assert table.as_list() == [["7.1", 99, 5, 42]]
    assert table.ended(99, 5, 0) is None  # the first word counts
    table.acknowledge(99, 6)
    assert len(table) == 1
    table.acknowledge(99, 5)
    assert len(table) == 0


def test_a_number_given_again_is_another_child() -> None:
    table = tables.Children([Child("7.1", 99, 5)])
    assert table.ended(99, 6, 1) is None
    table.report("8.1", 99, 7)
    table.acknowledge(99, 5)  # late, and about the first
    assert table.as_list() == [["8.1", 99, 7, None]]


def test_a_zombie_is_noted_before_it_is_let_go() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    while (found := tables.find_zombie()) is not None and found[0] != process.pid:
        tables.reap(found[0])  # left over by whatever ran in this process before
    assert found == (process.pid, proc.start_ticks(process.pid), -signal.SIGKILL)
    assert os.path.exists(f"/proc/{process.pid}")  # still there: nothing is lost until it is reaped
    tables.reap(process.pid)
    process.returncode = -9
    while (found := tables.find_zombie()) is not None:  # others may end meanwhile
        assert found[0] != process.pid
        tables.reap(found[0])


def test_a_tree_is_found_with_its_groups_sessions_and_marks_and_nothing_else() -> None:
    script = """
import os, subprocess, sys
subprocess.Popen(["sleep", "60"])                                  # same group
subprocess.Popen(["sleep", "60"], start_new_session=True)          # its own, known by its parent
print(os.getpid(), flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "MARK": "x:7.1"}
    with (
        subprocess.Popen(
            [sys.executable, "-c", script],
            start_new_session=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as root,
        subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment) as marked,
        subprocess.Popen(["sleep", "60"], env={**os.environ, "MARK": "x:71.1"}) as other,
    ):
        assert root.stdout is not None
        root.stdout.readline()
        ticks = proc.start_ticks(root.pid)
        assert ticks is not None
        child = Child("7.1", root.pid, ticks)
        while not proc.is_marked(marked.pid, (b"MARK=x:7.",)):
            pass  # its environment is there only once it runs
        found = {pid for pid, _ in tables.tree_of([child], "MARK=x:{0}.")}
        assert {root.pid, marked.pid} < found
        assert len(found) == 4
        assert other.pid not in found
        assert os.getpid() not in found
        # Somebody else with that number: nothing of his is ours.
        assert tables.tree_of([Child("9.1", root.pid, ticks + 1)], "MARK=x:{0}.") == []
        assert tables.kill_tree([child], "MARK=x:{0}.") == 4
        assert root.wait() == -9
        assert marked.wait() == -9
        assert other.poll() is None
        other.kill()

"""HTTP calls in processes of their own: they outlive whoever began them, and leave an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import echosched
from echosched.errors import ExecutionError
from echosched.executor import never_started, proc, unbar
from echosched.model import CommandAction, HttpAction, Policy, ProcessIdentity, State

if TYPE_CHECKING:
    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

STARTER = Path(__file__).with_name("call_starter.py")


class Server:
    """Answers ``hello`` to everything, when it may; remembers what came."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answers = asyncio.Event()  # cleared: nobody is answered before it is set again
        self.answers.set()
        self.body = b"hello\n"
        self.status = b"200 OK"
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self.answers.wait()
            head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.body))
            writer.write(head + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    yield made
    made.answers.set()
    listening.close()


@pytest.fixture
def rig(rigs: Rigs, tmp_path: Path) -> Rig:
    return rigs(trace_path=lambda run, attempt: str(tmp_path / "runs-0" / f"{run}.{attempt}.log"))


def left(rig: Rig) -> list[str]:
    return sorted(path.name for path in rig.directory.iterdir())


def gone(pid: int) -> bool:
    stat = proc.read_stat(pid)
    return stat is None or stat.dead


async def test_a_call_has_a_process_and_ends_like_any(rig: Rig, server: Server) -> None:
    server.answers.clear()
    attempt = rig.attempt(HttpAction(server.url))
    execution = await rig.executor.start(attempt)
    assert execution.process is not None
    assert rig.executor.find_all() == {attempt.tag: [execution.process]}
    assert rig.reported == [(attempt.tag, execution.process.pid, execution.process.start_ticks)]
    stat = proc.read_stat(execution.process.pid)
    assert stat is not None
    assert stat.session == stat.pid
    server.answers.set()
    result = await execution.wait()
    assert (result.state, result.exit_code, result.signal, result.error) == (
        State.SUCCEEDED,
        None,
        None,
        None,
    )
    assert rig.output(attempt) == "HTTP/1.1 200 OK\nContent-Length: 6\n\nhello\n"
    assert result.output_bytes == len(rig.output(attempt))
    execution.settle()
    await rig.until(lambda: rig.settled)
    assert left(rig) == ["1.1.log"]


async def test_many_calls_at_once_arrive_once_each(rig: Rig, server: Server) -> None:
    server.answers.clear()
    runs = asyncio.gather(*(rig.run(HttpAction(f"{server.url}{n}")) for n in range(30)))
    await rig.until(lambda: len(server.requests) == 30)
    server.answers.set()
    results = await runs
    assert {result.state for result, _ in results} == {State.SUCCEEDED}
    assert sorted(request.split()[1] for request in server.requests) == sorted(b"/%d" % n for n in range(30))


async def test_reasons_and_discarded_output_leave_no_file(rig: Rig, server: Server) -> None:
    server.status = b"500 Oops"
    result, _ = await rig.run(HttpAction(server.url), output=False, policy=Policy(output=False))
    assert (result.state, result.error, result.output_bytes) == (
        State.FAILED,
        "HTTP status 500 Oops (expected 2xx)",
        None,
    )
    await rig.until(lambda: not left(rig))


async def test_what_is_wrong_with_a_call_is_told_as_ever(rig: Rig, server: Server) -> None:
    assert (await rig.run(HttpAction("http://127.0.0.1:1/")))[0].error == (
        "HTTP: 127.0.0.1:1: Connection refused"
    )
    result, _ = await rig.run(HttpAction("https://127.0.0.1:1/", ca_file="/no/such-file"))
    assert result.error == "http: ca_file /no/such-file: No such file or directory"
    with pytest.raises(ExecutionError, match="not a complete"):
        await rig.run(HttpAction("nonsense"))


async def test_secrets_pass_by_no_argument_and_no_environment(
    rigs: Rigs, server: Server, tmp_path: Path
) -> None:
    rig = rigs(
        resolve=lambda text: text.replace("${env:KEY}", "t0p/secret"),
        trace_path=lambda run, attempt: str(tmp_path / "runs-0" / f"{run}.{attempt}.log"),
    )
    server.answers.clear()
    server.body = b"you said t0p/secret\n"
    attempt = rig.attempt(HttpAction(server.url, headers=(("X-Key", "${env:KEY}"),)))
    execution = await rig.executor.start(attempt)
    assert execution.process is not None
    stat = proc.read_stat(execution.process.pid)
    assert stat is not None
    for pid in (stat.pid, stat.parent):
        for name in ("cmdline", "environ"):
            assert b"t0p" not in Path(f"/proc/{pid}/{name}").read_bytes()
    server.answers.set()
    assert (await execution.wait()).state is State.SUCCEEDED
    assert b"X-Key: t0p/secret" in server.requests[0]
    assert rig.output(attempt).endswith("you said ***\n")


@pytest.mark.parametrize("state", [State.CANCELLED, State.TIMED_OUT])
async def test_a_call_is_ended_like_a_process(rig: Rig, server: Server, state: State) -> None:
    server.answers.clear()
    policy = Policy(timeout=timedelta(seconds=0.5) if state is State.TIMED_OUT else None)
    execution = await rig.executor.start(rig.attempt(HttpAction(server.url), policy=policy))
    await rig.until(lambda: server.requests)
    if state is State.CANCELLED:
        execution.cancel("stopped", state=state, kill_after=timedelta(seconds=5))
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is state
    assert result.error == ("stopped" if state is State.CANCELLED else "timed out after 0.5 s")
    assert not rig.executor.find_all()


async def test_a_call_outlives_who_began_it(rig: Rig, server: Server) -> None:
    server.answers.clear()
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        str(STARTER),
        rig.instance,
        str(rig.directory),
        f"{server.url}a",
        f"{server.url}b",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(echosched.__file__).parents[1])},
    )
    assert worker.stdout is not None
    known = {}
    while (line := (await worker.stdout.readline()).decode()) != "ready\n":
        tag, pid, ticks = line.split()
        known[tag] = ProcessIdentity(int(pid), int(ticks))
    worker.kill()
    await worker.wait()
    marked = await asyncio.to_thread(rig.executor.find_all)
    assert {tag: family[0] for tag, family in marked.items()} == known
    first, second = (rig.attempt(HttpAction(server.url)) for _ in range(2))
    adopted = rig.executor.adopt(first, known[first.tag])
    server.answers.set()
    result = await adopted.wait()
    # The second one is not looked at before it is over and gone.
    await rig.until(lambda: gone(known[second.tag].pid))
    late = await rig.executor.adopt(second, known[second.tag]).wait()
    for each, attempt in ((result, first), (late, second)):
        assert (each.state, each.exit_code, each.error) == (State.SUCCEEDED, None, None)
        assert rig.output(attempt).endswith("\n\nhello\n")
    assert sorted(request.split()[1] for request in server.requests) == [b"/a", b"/b"]


async def test_a_call_of_a_job_that_is_gone_is_judged_by_its_answer(rig: Rig, server: Server) -> None:
    server.status = b"404 Not Found"
    attempt = rig.attempt(HttpAction(server.url))
    execution = await rig.executor.start(attempt)
    await execution.wait()
    assert execution.process is not None
    stranger = replace(attempt, job=replace(attempt.job, action=CommandAction(())))
    result = await rig.executor.adopt(stranger, execution.process).wait()
    assert (result.state, result.error) == (State.FAILED, "HTTP status 404 Not Found (expected 2xx)")


async def test_a_killed_call_has_failed(rig: Rig, server: Server) -> None:
    server.answers.clear()
    execution = await rig.executor.start(rig.attempt(HttpAction(server.url)))
    assert execution.process is not None
    await rig.until(lambda: server.requests)
    os.kill(execution.process.pid, signal.SIGKILL)
    result = await asyncio.wait_for(execution.wait(), 60)
    assert result.state is State.FAILED
    assert result.error in ("killed by signal 9 (SIGKILL)", "its process ended without an answer")


async def test_calls_go_on_without_the_process_that_forked_them(rig: Rig, server: Server) -> None:
    server.answers.clear()
    attempt = rig.attempt(HttpAction(server.url))
    execution = await rig.executor.start(attempt)
    assert execution.process is not None
    stat = proc.read_stat(execution.process.pid)
    assert stat is not None
    os.kill(stat.parent, signal.SIGKILL)
    another = asyncio.create_task(rig.run(HttpAction(server.url)))
    await rig.until(lambda: len(server.requests) == 2)
    server.answers.set()
    again, _ = await another
    assert again.state is State.SUCCEEDED
    assert (await execution.wait()).state is State.SUCCEEDED
    assert len(server.requests) == 2


async def test_a_barred_call_is_never_made(rig: Rig, server: Server) -> None:
    attempt = rig.attempt(HttpAction(server.url))
    assert attempt.output_path is not None
    assert never_started(attempt.output_path)
    with pytest.raises(ExecutionError, match="begun before"):
        await rig.executor.start(attempt)
    assert server.requests == []
    unbar(attempt.output_path)
    assert (await (await rig.executor.start(attempt)).wait()).state is State.SUCCEEDED


async def test_closing_leaves_calls_and_ends_the_rest(rig: Rig, server: Server) -> None:
    server.answers.clear()
    execution = await rig.executor.start(rig.attempt(HttpAction(server.url)))
    assert execution.process is not None
    stat = proc.read_stat(execution.process.pid)
    assert stat is not None
    await rig.executor.close()
    await rig.until(lambda: gone(stat.parent))
    assert not gone(execution.process.pid)
    server.answers.set()
    await rig.until(lambda: (rig.directory / "1.1.log.answer").exists())
    await rig.until(lambda: gone(stat.pid))

"""Commands as real processes: outcomes, surroundings, reasons of failure."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.errors import ExecutionError
from echosched.executor import limits
from echosched.model import Attempt, CommandAction, Job, Policy, Process, Result, State, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Rig

    Rigs = Callable[..., Rig]
else:
    Rig = Rigs = Any

DEADLINE_SECONDS = 30.0

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing accounts needs root")


async def test_a_command_that_ends_with_0_succeeds(rig: Rig) -> None:
    result, output = await rig.run("echo hello")
    assert (result.state, result.exit_code, result.signal, result.error) == (State.SUCCEEDED, 0, None, None)
    assert (output, result.output_bytes) == ("hello\n", 6)


async def test_another_exit_code_is_a_failure_with_its_number(rig: Rig) -> None:
    result, _ = await rig.run("exit 3")
    assert (result.state, result.exit_code, result.error) == (State.FAILED, 3, "exit code 3")


@pytest.mark.parametrize("code", [0, 1, 75, 126, 255])
async def test_success_codes_decide_what_succeeds(rig: Rig, code: int) -> None:
    action = CommandAction(f"exit {code}", success_codes=(1, 75, 255))
    result, _ = await rig.run(action)
    assert result.exit_code == code
    assert (result.state is State.SUCCEEDED) == (code in (1, 75, 255))


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE, signal.SIGRTMIN]
)
async def test_a_death_by_signal_is_told_by_number_and_name(rig: Rig, number: signal.Signals) -> None:
    result, _ = await rig.run(f"kill -{int(number)} $$")
    assert (result.state, result.exit_code, result.signal) == (State.FAILED, None, number)
    assert result.error == f"killed by signal {int(number)} ({number.name})"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-command-here --now", "command not found: no-such-command-here"),
        ("/no/such/command", "command not found: /no/such/command"),
        (("no-such-command-here",), "command not found: no-such-command-here"),
        ("/etc/passwd", "command not executable: /etc/passwd"),
        ("/etc", "command not executable: /etc"),
    ],
)
async def test_what_cannot_be_run_is_refused_with_its_reason(rig: Rig, command: Any, reason: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        await rig.run(CommandAction(command))
    assert str(caught.value).startswith(reason)


async def test_a_missing_interpreter_is_named(rig: Rig, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ExecutionError, match="interpreter that its first line names"):
        await rig.run(str(script))


async def test_a_program_in_path_that_is_not_executable_is_named(rigs: Rigs, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("echo hi")
    rig = rigs(environment={"PATH": str(tmp_path)})
    with pytest.raises(ExecutionError, match=f"not executable: {tmp_path}/tool"):
        await rig.run("tool")


async def test_a_script_without_first_line_runs_in_a_shell(rig: Rig, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "script says $1"\nexit 4\n')
    script.chmod(0o755)
    result, output = await rig.run(CommandAction(str(script), args=("it",)))
    assert (result.exit_code, output) == (4, "script says it\n")


async def test_a_missing_directory_is_named(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match="cwd /no/such/place: does not exist"):
        await rig.run("true", process=Process(cwd="/no/such/place"))


async def test_an_output_file_that_exists_means_that_the_attempt_was_begun_before(rig: Rig) -> None:
    attempt = rig.attempt("true")
    assert attempt.output_path is not None
    Path(attempt.output_path).write_text("from an earlier life")
    with pytest.raises(ExecutionError, match="begun before"):
        await rig.executor.start(attempt)
    assert rig.output(attempt) == "from an earlier life"


async def test_an_output_file_is_never_followed_through_a_link(rig: Rig, tmp_path: Path) -> None:
    attempt = rig.attempt("echo overwritten")
    assert attempt.output_path is not None
    target = tmp_path / "precious"
    Path(attempt.output_path).symlink_to(target)
    with pytest.raises(ExecutionError):
        await rig.executor.start(attempt)
    assert not target.exists()


async def test_a_missing_output_directory_is_named(rig: Rig) -> None:
    attempt = Attempt(1, Job("job", CommandAction("true")), None, 1, Trigger.MANUAL, "/no/such/dir/1.log")
    with pytest.raises(ExecutionError, match=r"output file /no/such/dir/1\.log: No such file or directory"):
        await rig.executor.start(attempt)


async def test_output_files_are_not_for_everybody(rig: Rig) -> None:
    attempt = rig.attempt("echo secret")
    execution = await rig.executor.start(attempt)
    await execution.wait()
    assert attempt.output_path is not None
    assert os.stat(attempt.output_path).st_mode & 0o7777 == 0o640


async def test_without_output_path_output_is_discarded(rig: Rig) -> None:
    result, _ = await rig.run("echo hello; ls -l /proc/self/fd/1", output=False)
    assert (result.state, result.output_bytes) == (State.SUCCEEDED, None)


async def test_both_streams_go_to_the_output_in_order(rig: Rig) -> None:
    _, output = await rig.run("echo one; echo two >&2; echo three")
    assert output == "one\ntwo\nthree\n"


async def test_output_that_is_not_utf_8_is_kept_byte_for_byte(rig: Rig) -> None:
    attempt = rig.attempt(r"printf '\377\000\200\n'")
    execution = await rig.executor.start(attempt)
    result = await execution.wait()
    assert attempt.output_path is not None
    assert Path(attempt.output_path).read_bytes() == b"\xff\x00\x80\n"
    assert result.output_bytes == 4


async def test_stdin_is_empty_unless_given(rig: Rig) -> None:
    assert (await rig.run("cat; echo end"))[1] == "end\n"


@pytest.mark.parametrize("text", ["line\n", "", "ä" * 300_000])
async def test_stdin_text_is_read_to_its_end(rig: Rig, text: str) -> None:
    _, output = await rig.run(CommandAction("wc -c", stdin=text))
    assert int(output) == len(text.encode())


async def test_the_environment_is_clean(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("DAEMON_SECRET", "hush")
    slot = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    job = Job("nightly", CommandAction(("/usr/bin/env",)), timezone="Europe/Berlin")
    attempt = Attempt(17, job, slot, 2, Trigger.SCHEDULE, str(rig.directory / "17.2.log"))
    execution = await rig.executor.start(attempt)
    await execution.wait()
    env = dict(line.split("=", 1) for line in rig.output(attempt).splitlines())
    assert set(env) == {
        "PATH", "HOME", "LANG", "SHELL", "USER", "LOGNAME", "TZ",
        "ECHOSCHED_JOB", "ECHOSCHED_RUN", "ECHOSCHED_SLOT", "ECHOSCHED_ATTEMPT", "ECHOSCHED_MARK",
    }  # fmt: skip
    assert env["TZ"] == "Europe/Berlin"
    assert zoneinfo.ZoneInfo(env["TZ"])
    assert env["ECHOSCHED_JOB"] == "nightly"
    assert env["ECHOSCHED_RUN"] == "17"
    assert env["ECHOSCHED_SLOT"] == "2026-01-02T03:04:05.000000Z"
    assert env["ECHOSCHED_ATTEMPT"] == "2"
    assert env["ECHOSCHED_MARK"] == f"{rig.instance}:17.2"


async def test_env_file_and_env_are_added_and_env_wins(rigs: Rigs, tmp_path: Path) -> None:
    file = tmp_path / "job.env"
    file.write_text("# comment\nexport A='from file'\nB=from file\n\nC=\"quoted\"\n")
    rig = rigs(resolve=lambda text: text.replace("${env:TOKEN}", "t0ken"))
    process = Process(env=(("B", "from env"), ("D", "x${env:TOKEN}")), env_file=str(file))
    _, output = await rig.run('echo "$A,$B,$C,$D"', process=process)
    assert output == "from file,from env,quoted,xt0ken\n"


async def test_a_missing_env_file_is_the_reason(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match="env_file /no/such/file: No such file"):
        await rig.run("true", process=Process(env_file="/no/such/file"))


async def test_an_unset_secret_is_the_reason(rigs: Rigs) -> None:
    def resolve(text: str) -> str:
        if "${env:" in text:
            raise ExecutionError("${env:TOKEN}: not set")
        return text

    rig = rigs(resolve=resolve)
    with pytest.raises(ExecutionError, match=r"TOKEN.*not set"):
        await rig.run("true", process=Process(env=(("X", "${env:TOKEN}"),)))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
async def test_umask_is_the_job_s_and_not_the_next_one_s(rig: Rig, umask: int) -> None:
    own = os.umask(0o027)
    try:
        assert (await rig.run("umask", process=Process(umask=umask)))[1].strip() == f"{umask:04o}"
        assert (await rig.run("umask"))[1].strip() == "0022"
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(own)


async def test_cwd_is_the_job_s(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "here").chmod(0o755)
    assert (await rig.run("./here", process=Process(cwd=str(tmp_path))))[1] == f"{tmp_path}\n"


NICE = os.getpriority(os.PRIO_PROCESS, 0) + 3


@pytest.mark.parametrize("prlimit", [True, False])
async def test_limits_and_nice_are_the_job_s(
    rig: Rig, prlimit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not prlimit:
        monkeypatch.setattr(limits, "_prlimit", lambda: None)
    process = Process(nice=NICE, limits=(("nofile", 77), ("core", 0), ("cpu", -1)))
    _, output = await rig.run("nice; ulimit -n; ulimit -c; ulimit -t; echo $ECHOSCHED_JOB", process=process)
    assert output.split() == [str(NICE), "77", "0", "unlimited", "job"]


async def test_the_next_job_is_as_nice_as_the_daemon(rigs: Rigs) -> None:
    rig = rigs(spawners=1)
    assert (await rig.run("nice", process=Process(nice=NICE)))[1] == f"{NICE}\n"
    assert (await rig.run("nice"))[1] == f"{NICE - 3}\n"
    assert os.getpriority(os.PRIO_PROCESS, 0) == NICE - 3


async def test_a_limit_that_does_not_exist_is_the_reason(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match=r"limits\.nonsense: no such limit"):
        await rig.run("true", process=Process(limits=(("nonsense", 1),)))


@as_root
async def test_a_limit_that_the_kernel_refuses_is_the_reason(rig: Rig) -> None:
    process = Process(user="nobody", limits=(("nofile", 2**40),))
    result, _ = await rig.run("true", process=process)
    assert (result.state, result.exit_code) == (State.FAILED, 125)
    assert result.error is not None
    assert result.error.startswith("limits.nofile: ")


@as_root
async def test_limits_and_account_change_together(rig: Rig) -> None:
    process = Process(user="nobody", limits=(("nofile", 77),), nice=NICE, umask=0o077)
    _, output = await rig.run("id -un; ulimit -n; nice; umask; pwd", process=process)
    assert output.split() == ["nobody", "77", str(NICE), "0077", "/"]


async def test_what_cannot_be_run_with_limits_has_a_reason_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(limits=(("nofile", 77),))
    result, output = await rig.run("/no/such/command", process=process)
    assert (result.state, result.exit_code) == (State.FAILED, 127)
    assert "/no/such/command" in output
    monkeypatch.setattr(limits, "_prlimit", lambda: None)
    result, _ = await rig.run("/no/such/command", process=process)
    assert (result.state, result.exit_code) == (State.FAILED, 127)
    assert result.error is not None
    assert result.error.startswith("command not found: /no/such/command")


async def test_an_unknown_user_or_group_is_the_reason(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match="user 'no-such-user' is unknown"):
        await rig.run("true", process=Process(user="no-such-user"))
    with pytest.raises(ExecutionError, match="group 'no-such-group' is unknown"):
        await rig.run("true", process=Process(group="no-such-group"))


@as_root
@pytest.mark.parametrize("extra", [Process(), Process(nice=3)])
async def test_a_job_of_another_user_has_that_account_s_surroundings(rig: Rig, extra: Process) -> None:
    process = Process(user="nobody", nice=extra.nice)
    _, output = await rig.run('id -un; id -G; echo "$HOME $USER $SHELL"; pwd; echo done', process=process)
    lines = output.splitlines()
    assert lines[0] == "nobody"
    assert lines[1] == "65534"
    assert lines[2] == "/nonexistent nobody /usr/sbin/nologin"
    assert lines[3:] == ["/", "done"]


@as_root
async def test_naming_the_daemon_s_own_user_changes_nothing(rig: Rig) -> None:
    _, output = await rig.run("id -u; pwd", process=Process(user="root"))
    assert output.splitlines() == ["0", os.getcwd()]


async def test_jobs_start_with_default_signals_and_no_foreign_descriptors(rig: Rig) -> None:
    leak_r, leak_w = os.pipe()
    os.set_inheritable(leak_w, True)
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        for extra in (Process(), Process(nice=os.getpriority(os.PRIO_PROCESS, 0))):
            result, output = await rig.run(
                "grep ^Sig /proc/self/status; ls /proc/self/fd | xargs", process=extra
            )
            assert result.state is State.SUCCEEDED
            masks = dict(line.split(":\t") for line in output.splitlines()[:-1])
            assert int(masks["SigBlk"], 16) == 0
            # 32 and 33 belong to the C library, whose posix_spawn leaves them ignored.
            assert int(masks["SigIgn"], 16) & ~(0b11 << 31) == 0
            assert output.splitlines()[-1] == "0 1 2 3"  # 3: ls reads the directory
    finally:
        signal.signal(signal.SIGUSR1, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(leak_r)
        os.close(leak_w)


async def test_each_job_leads_a_session_of_its_own(rig: Rig) -> None:
    for extra in (Process(), Process(nice=os.getpriority(os.PRIO_PROCESS, 0))):
        _, output = await rig.run("echo $$; cut -d' ' -f5,6 /proc/$$/stat", process=extra)
        pid, ids = output.splitlines()
        assert ids.split() == [pid, pid]


async def test_a_job_that_closes_all_descriptors_still_ends_normally(rig: Rig) -> None:
    code = "import os; os.closerange(0, 1000); os._exit(7)"
    result, _ = await rig.run(CommandAction((sys.executable, "-c", code)))
    assert result.exit_code == 7


async def test_a_child_left_in_the_background_is_left_alone(rig: Rig) -> None:
    result, output = await rig.run("sleep 60 & echo $!")
    assert result.state is State.SUCCEEDED
    assert int(output) in rig.alive()


async def test_the_exit_is_only_looked_at_until_it_is_settled(rig: Rig) -> None:
    execution = await rig.executor.start(rig.attempt("exit 5"))
    process = execution.process
    assert process is not None
    assert rig.reported == [("1.1", process.pid, process.start_ticks)]
    assert (await execution.wait()).exit_code == 5
    assert Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1].startswith("Z")
    assert rig.settled == []
    execution.settle()
    execution.settle()
    await rig.until(lambda: rig.settled)
    assert rig.settled == [(process.pid, process.start_ticks)]
    assert not Path(f"/proc/{process.pid}").exists()


async def test_one_result_serves_several_who_wait(rig: Rig) -> None:
    execution = await rig.executor.start(rig.attempt("sleep 0.2"))
    impatient = asyncio.create_task(execution.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    first, second = await asyncio.gather(execution.wait(), execution.wait())
    assert first is second
    assert first.state is State.SUCCEEDED


async def test_argument_lists_that_are_too_long_are_the_reason(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match="too long"):
        await rig.run(CommandAction(("true", "x" * 3_000_000)))


async def test_a_nul_character_is_refused(rig: Rig) -> None:
    with pytest.raises(ExecutionError, match="NUL"):
        await rig.run(CommandAction(("echo", "a\0b")))
    with pytest.raises(ExecutionError, match=r"BAD.*NUL"):
        await rig.run("true", process=Process(env=(("BAD", "a\0b"),)))


async def test_defaults_fill_what_a_job_leaves_open(rigs: Rigs, tmp_path: Path) -> None:
    rig = rigs(defaults=Process(cwd=str(tmp_path), umask=0o007, env=(("A", "1"), ("B", "1"))))
    _, output = await rig.run("pwd; umask; echo $A$B", process=Process(env=(("B", "2"),)))
    assert output.splitlines() == [str(tmp_path), "0007", "12"]


async def test_a_burst_ends_completely_and_leaves_no_zombie(rig: Rig) -> None:
    attempts = [rig.attempt(f"exit {number % 256}") for number in range(300)]

    async def carry_out(attempt: Attempt) -> int | None:
        execution = await rig.executor.start(attempt)
        result = await execution.wait()
        execution.settle()
        return result.exit_code

    codes = await asyncio.gather(*map(carry_out, attempts))
    assert codes == [number % 256 for number in range(300)]
    await rig.until(lambda: len(rig.settled) == 300)
    assert sorted(told[1:] for told in rig.reported) == sorted(rig.settled)


async def test_closing_leaves_processes_alone(rig: Rig) -> None:
    execution = await rig.executor.start(rig.attempt("sleep 60"))
    assert execution.process is not None
    await rig.executor.close()
    os.kill(execution.process.pid, 0)
    with pytest.raises(ExecutionError, match="closed"):
        await rig.executor.start(rig.attempt("true"))


async def test_a_supervisor_that_cannot_be_told_does_not_lose_the_run(rigs: Rigs) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError

    rig = rigs(report_child=broken, on_settled=broken)
    result, _ = await rig.run("exit 9")
    assert result.exit_code == 9


async def test_policy_without_time_out_waits(rig: Rig) -> None:
    result, _ = await rig.run("sleep 0.1; exit 2", policy=Policy(timeout=None, kill_after=timedelta(0)))
    assert result.exit_code == 2


async def test_a_command_that_the_shell_does_not_find_is_told_in_words(rig: Rig) -> None:
    assert (await rig.run("no-such-command-here > /dev/null"))[0].error == "exit code 127 (command not found)"
    assert (await rig.run("/etc/passwd > /dev/null"))[0].error == "exit code 126 (command not executable)"
    assert (await rig.run(CommandAction(("sh", "-c", "exit 127"))))[0].error == "exit code 127"


async def test_a_change_of_directory_of_the_program_reaches_the_jobs(
    rigs: Rigs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(defaults=Process(umask=0o077), spawners=1)
    await rig.run("true")
    monkeypatch.chdir(tmp_path)
    assert (await rig.run("pwd"))[1] == f"{tmp_path}\n"


async def test_without_descriptors_for_pidfds_jobs_are_watched_all_the_same(rig: Rig) -> None:
    await rig.run("true")
    await rig.run("seq 10")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    attempts = [rig.attempt(f"sleep 0.3; exit {number}") for number in range(1, 6)]
    filler: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filler.append(os.dup(0))
        executions = await asyncio.gather(*map(rig.executor.start, attempts))
        codes = [(await execution.wait()).exit_code for execution in executions]
        for execution in executions:
            execution.settle()
        await asyncio.sleep(0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filler:
            os.close(descriptor)
    assert codes == [1, 2, 3, 4, 5]
    await rig.until(lambda: len(rig.settled) == 7)


async def test_somebody_else_who_reaps_everything_hides_no_end(rigs: Rigs) -> None:
    rig = rigs(patience_seconds=0.2)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps at once
    try:
        result, _ = await rig.run("exit 6")
    finally:
        signal.signal(signal.SIGCHLD, before)
    # From Linux 6.15 on the pidfd still tells the code.
    assert (result.state, result.exit_code) in ((State.FAILED, 6), (State.ABANDONED, None))


# ── made ready before the start ───────────────────────────────────────────────────────────────


class Told:
    """What an executor called back."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.refused: list[Exception] = []
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def prepare(self, rig: Rig, attempt: Attempt) -> Callable[[], None]:
        steps = self.begun.append, self.refused.append, self.ended.set_result
        start = rig.executor.prepare(attempt, *steps, early=True)
        assert start is not None
        return start


async def test_what_was_made_ready_starts_when_it_is_told_to_and_not_before(rig: Rig) -> None:
    told, attempt = Told(), rig.attempt(CommandAction("cat", stdin="words"))
    start = told.prepare(rig, attempt)
    await asyncio.sleep(0.1)
    assert rig.reported == []
    assert not os.path.exists(attempt.output_path or "")
    start()
    result = await asyncio.wait_for(told.ended, DEADLINE_SECONDS)
    assert result.state is State.SUCCEEDED
    assert rig.output(attempt) == "words"
    assert len(told.begun) == 1


async def test_a_start_need_not_wait_until_it_was_made_ready(rig: Rig) -> None:
    told, attempt = Told(), rig.attempt("echo soon")
    told.prepare(rig, attempt)()
    await asyncio.wait_for(told.ended, DEADLINE_SECONDS)
    assert rig.output(attempt) == "soon\n"
    assert len(rig.reported) == 1


async def test_what_cannot_be_made_ready_is_told_at_its_start(rig: Rig) -> None:
    told, attempt = Told(), rig.attempt(CommandAction(("no-such-program",)))
    start = told.prepare(rig, attempt)
    await asyncio.sleep(0.05)
    assert told.refused == []
    start()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not told.refused:
            await asyncio.sleep(0.01)
    assert "command not found: no-such-program" in str(told.refused[0])


async def test_what_is_made_ready_and_never_started_leaves_nothing(rig: Rig) -> None:
    await rig.run("true")  # threads and watches are there
    before = sorted(os.listdir("/proc/self/fd"))
    told = Told()
    for _ in range(20):
        told.prepare(rig, rig.attempt(CommandAction("cat", stdin="words")))
    await asyncio.sleep(0.2)
    await rig.until(lambda: sorted(os.listdir("/proc/self/fd")) == before)
    assert len(rig.reported) == 1


def steps_of_spawners() -> int:
    """Return how often the threads that start processes have gone to sleep so far."""
    steps = 0
    for thread in threading.enumerate():
        if thread.name.startswith("spawner-"):
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            steps += int(status.split("voluntary_ctxt_switches:")[1].split()[0])
    return steps


async def test_a_roused_executor_wakes_a_thread_up_and_starts_nothing(rig: Rig) -> None:
    rig.executor.rouse()  # before there are any
    rig.executor.warm()
    for _ in range(3):
        await asyncio.sleep(0.1)  # they rest
        before = steps_of_spawners()
        rig.executor.rouse()
        await rig.until(lambda before=before: steps_of_spawners() > before)
    assert rig.reported == []
    result, output = await rig.run("echo hello")
    assert (result.state, output) == (State.SUCCEEDED, "hello\n")
    await rig.close()
    rig.executor.rouse()


async def test_an_ended_process_holds_no_descriptor_while_its_end_is_being_recorded(rig: Rig) -> None:
    await rig.run("true")
    before = len(os.listdir("/proc/self/fd"))
    executions = [await rig.executor.start(rig.attempt("exit 3")) for _ in range(20)]
    results = [await asyncio.wait_for(each.wait(), DEADLINE_SECONDS) for each in executions]
    assert {result.exit_code for result in results} == {3}
    await rig.until(lambda: len(os.listdir("/proc/self/fd")) == before)
    for each in executions:
        assert each.process is not None
        seen = os.waitid(os.P_PID, each.process.pid, os.WEXITED | os.WNOWAIT)
        assert seen is not None, "not reaped before it is settled"
        each.settle()

"""The worker: builds the parts from a ``Config``, plugs them together, and lives until it is told to leave."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from echosched import events
from echosched.app import evidence
from echosched.app.daemon import instance_of, supervisor_settings, waiting_for_restart
from echosched.app.heartbeat import Heartbeat
from echosched.app.hosts import Surroundings, host_of
from echosched.app.messages import Messages
from echosched.app.onstart import fire_on_start
from echosched.app.outputs import Outputs
from echosched.app.shipped import program_of, run_builtin
from echosched.clock import rfc3339
from echosched.config.load import load
from echosched.config.secrets import SecretResolver
from echosched.control.server import ControlServer
from echosched.daemon import precedence, proc
from echosched.daemon.link import Message, WorkerLink
from echosched.errors import EX_NOT_CONFIGURED, EX_OK, EX_SOFTWARE, ConfigError, EchoschedError
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.executor.cgroup import cgroup2
from echosched.executor.task import TaskExecution
from echosched.journal import Journal
from echosched.metrics import Metrics
from echosched.model import HttpAction, ProcessIdentity
from echosched.operations import Operations
from echosched.schedule import jitter_seconds
from echosched.scheduler.recovery import Evidence, follow_up, recover
from echosched.version import __version__

if TYPE_CHECKING:
    from echosched.config.paths import Paths
    from echosched.config.settings import Config

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others from the interpreter. Python's own 5 ms would let a spawner that
comes back from the kernel wait for a whole turn of the loop before it can start the next job."""

LOOK_SECONDS, HANGING_SECONDS = 0.1, 3.0
"""A worker that leaves looks so often whether starts hang: whether they have not come back for so long."""


class Worker:
    """The worker: one loop, all parts, and the line to the supervisor."""

    def __init__(self, paths: Paths, config: Config, link: WorkerLink) -> None:
        self.paths = paths
        self.config = config
        self.link = link
        self.secrets = SecretResolver()
        self.heart = Heartbeat(self)
        self.outputs = Outputs(paths.runs)
        self.host = host_of(
            Surroundings(
                paths=paths,
                config=config,
                sink=self,
                owner=f"{os.uname().nodename}:{link.supervisor_pid}",
                lenient=link.standby or link.restarts > 0,
                on_degraded=self.heart.degraded,
                records=lambda: [entry.record() for entry in self.scheduler.roster.entries.values()],
                highest_trace=self.outputs.highest_run,
                resolve=self.secrets,
            )
        )
        self.clock, self.store = self.host.clock, self.host.store
        self.started_at = self.clock.now()
        self.messages = Messages(self)
        self._leave: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._first_config = config
        self._early: list[Message] | None = []
        self._go = asyncio.Event()
        self.journal = Journal(
            paths.log,
            echo=sys.stdout.fileno() if link.mode == "foreground" else None,
            call_soon=asyncio.get_running_loop().call_soon,
            call_later=asyncio.get_running_loop().call_later,
            lenient=True,
        )
        self.metrics = Metrics()
        _, own = cgroup2()
        self.executor = ActionExecutor(
            ExecutorOptions(
                clock=self.clock,
                instance=instance_of(paths),
                resolve=self.secrets,
                report_child=link.report_child,
                on_crowd=precedence.weigh_session,
                on_settled=link.acknowledge,
                cgroup=own and f"{own}/echosched-{instance_of(paths)}",
                trace_path=self.outputs.prepare,
                builtin=lambda context: run_builtin(self, context),
                program=lambda attempt: program_of(self, attempt),
            )
        )
        self.scheduler = self.host.scheduler(
            executor=self.executor,
            sinks=[self.journal, self.metrics],
            max_concurrent=config.daemon.max_concurrent,
            output_path=self.outputs.prepare,
            jitter=jitter_seconds,
            on_write=self.metrics.store_latency,
            redact=self.secrets.redact,
        )
        self.scheduler.runs.spare_path = self.outputs.spare.prepare
        if config.cluster is None and not (link.standby or link.restarts):
            # A daemon's first worker: nobody was there before it. Of many hosts, another one may have been.
            self.scheduler.roster.absent_until = self.started_at
        self.operations = Operations(
            self.scheduler,
            output_path=self.outputs.path,
            reload=self.reload,
            journal_path=paths.log,
            facts=self._facts,
            metrics=self.metrics.snapshot,
            redact=self.secrets.redact,
            membership=self.host.membership,
        )
        self.server = ControlServer(self.operations, paths.socket, group=_group(config.daemon.control_group))

    def emit(self, event: events.Event) -> None:
        """Pass on what parts tell that were made before the scheduler."""
        self.scheduler.emit(event)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> int:
        """Live, and return the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self.link.fileno(), self._listen)
        self._listen()  # what came with the supervisor's first words lies in the link's buffer, not in the socket
        if self.link.standby:
            await self._warm_up()
            self.link.ready("standing by")
            await self._go.wait()
        await self._begin()
        return await self._leave

    async def _warm_up(self) -> None:
        """Do what can be done while the worker before this one is still at work: nothing runs in between."""
        self.messages.warm(self.config)
        self.executor.warm()
        await self.host.warm()

    async def _begin(self) -> None:
        self.heart.begin()
        self.scheduler.emit(
            events.Startup(
                ts=self.started_at,
                pid=os.getpid(),
                mode=self.link.mode,
                version=__version__,
                config={**self.paths.as_dict(), "jobs": len(self.config.jobs)},
            )
        )
        blind = self.heart.file.inherited_degraded_micros
        await self.host.open(self.config.jobs)
        await self.scheduler.load(self.config.jobs)
        await self.messages.follow(self.config)
        hidden_since = await self.host.account(self.heart.file, blind)
        self.heart.inherited_is_known()
        await recover(self.scheduler, await self._evidence(), hidden_since)
        left = frozenset(self.scheduler.runs.live)
        self.scheduler.spawn(asyncio.to_thread(self.outputs.sweep, left, self.started_at))
        self.scheduler.spawn(asyncio.to_thread(self.outputs.warm))
        await self.server.start()
        self.executor.warm()
        if any(isinstance(job.action, HttpAction) for job in self.config.jobs.values()):
            self.scheduler.spawn(self.executor.warm_calls())
        # What was loaded stays: going through it again and again for garbage would stop the loop in the middle
        # of a burst, for 25 ms with a thousand jobs.
        gc.freeze()
        gc.enable()
        self.scheduler.begin()
        await self._fire_on_start()
        await follow_up(self.scheduler)
        now = self.clock.now()
        self.scheduler.emit(events.Ready(ts=now, pid=os.getpid(), jobs=len(self.config.jobs)))
        self.journal.flush()
        self.link.ready(f"jobs: {len(self.config.jobs)}")
        self.heart.tick_on()
        early, self._early = self._early or [], None
        for message in early:
            self._hear(message)

    async def _evidence(self) -> Evidence:
        held = {}
        for child in self.link.children:
            held[child.tag] = ProcessIdentity(child.pid, child.start_ticks)
            if child.status is not None:
                self.executor.child_exit(child.tag, child.pid, child.start_ticks, child.status)
        return await evidence.gather(self.store, self.executor, self.outputs, held)

    async def _fire_on_start(self) -> None:
        supervisor = self.link.supervisor_pid
        ticks = proc.start_ticks(supervisor)
        await fire_on_start(
            self.scheduler, life=f"{proc.boot_id()}:{supervisor}:{ticks}", boot=proc.boot_id()
        )

    # ── what the supervisor says ──────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        for message in self.link.receive():
            try:
                self._hear(message)
            except Exception:
                log.exception("the supervisor's message %s could not be followed", message.op)

    def _hear(self, message: Message) -> None:
        if self._early is not None and message.op in ("stop", "reload", "retire"):
            self._early.append(message)  # not while the parts are still being put together
            return
        match message.op:
            case "stop":
                self._stop(message)
            case "reload":
                self.scheduler.spawn(self._reload_quietly())
            case "reopen":
                self.journal.reopen()
                self.link.reopen_output()
            case "child_exit" if message.child is not None:
                child = message.child
                if child.status is not None:
                    self.executor.child_exit(child.tag, child.pid, child.start_ticks, child.status)
            case "go":
                self._go.set()
            case "retire":
                self.scheduler.spawn(self._retire())
            case "eof":
                self._exit(EX_OK)

    def _stop(self, message: Message) -> None:
        if message.immediate:
            self.scheduler.runs.stop_all()
        if self._stopping is None:
            if self.link.supervisor_pid == os.getpid():  # --no-supervise: nobody else would tell
                now = self.clock.now()
                self.scheduler.emit(events.Shutdown(ts=now, signal=message.signal, pid=os.getpid()))
            self._stopping = asyncio.get_running_loop().create_task(self._shut(message))

    async def _shut(self, message: Message) -> None:
        if message.keep_jobs:
            await self._retire()
            return
        runs = self.scheduler.runs
        await self.scheduler.quiesce()
        stopping = self.scheduler.stop(0.0 if message.immediate else message.grace)
        await self._unless_hanging(stopping, lambda: len(runs.running()))
        try:
            await self.executor.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(runs.settle(), HANGING_SECONDS)
        finally:
            # Whatever broke: a worker that stays is killed, with its store and journal open.
            try:
                await self._let_go(gone=True)
            finally:
                self._exit(EX_OK)

    async def _retire(self) -> None:
        """Leave the jobs running and everything known committed."""
        runs = self.scheduler.runs
        await self.scheduler.quiesce()
        await self._unless_hanging(
            runs.started(), lambda: sum(live.execution is None for live in runs.running())
        )
        self.executor.processes.spawners.left()  # begun by the next worker, since no thread has taken them
        for live in runs.running():
            if isinstance(live.execution, TaskExecution):
                live.execution.leave()  # it cannot outlive us: the next worker begins it anew
        await runs.settle()
        try:
            await self._let_go(gone=False)
            await self.executor.close()
        finally:
            self._exit(EX_OK)  # the next worker waits for it

    async def _unless_hanging(self, waiting: Coroutine[Any, Any, None], left: Callable[[], int]) -> None:
        """Await *waiting*, as long as something besides starts that hang is *left* to it.

        Such a start is the next worker's: its output file shows whether it came about, or bars it.
        """
        task = asyncio.ensure_future(waiting)
        while not (await asyncio.wait((task,), timeout=LOOK_SECONDS))[0]:
            if 0 < left() <= self.executor.processes.spawners.stuck(HANGING_SECONDS):
                task.cancel()
        if not task.cancelled():
            task.result()

    async def _let_go(self, *, gone: bool) -> None:
        """Give up what only one worker can have: socket, messages, store, journal."""
        await self.server.close()
        await self.messages.close()
        await self.host.leave(gone=gone)
        await self.store.close()
        self.journal.close()

    def _exit(self, code: int) -> None:
        if not self._leave.done():
            self._leave.set_result(code)

    # ── reload ────────────────────────────────────────────────────────────────────────────────

    async def reload(self) -> Mapping[str, Any]:
        """Read the configuration again: parse, validate, swap. Raises ``ConfigError`` and changes nothing.

        Whatever else is raised came half-way: the settings are the old ones, and the jobs may be the new ones.
        """
        async with self._reloading:
            self.link.reloading()
            settings = None
            try:
                config = await asyncio.to_thread(load, paths=self.paths)
                await self.messages.follow(config)
                event = await self.scheduler.apply(config.jobs, max_concurrent=config.daemon.max_concurrent)
                self.config, settings = config, supervisor_settings(config.daemon)
            except ConfigError as error:
                self._tell_failed(error.problems)
                raise
            except Exception as error:
                reason = (
                    str(error) if isinstance(error, EchoschedError) else f"{type(error).__name__}: {error}"
                )
                self._tell_failed((f"it broke half-way, its jobs may be in force (reload again): {reason}",))
                raise
            finally:
                # However it went: the service manager waits for this, and nothing else would tell it.
                self.link.reloaded(settings)
            warnings = [*config.warnings, *waiting_for_restart(self._first_config, config)]
            return {**event.as_dict(), "warnings": warnings}

    def _tell_failed(self, problems: tuple[str, ...]) -> None:
        self.scheduler.emit(events.ReloadFailed(ts=self.clock.now(), problems=problems))

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except ConfigError as error:
            for problem in error.problems:
                log.error("reload refused: %s", problem)
        except EchoschedError as error:
            log.error("reload failed: %s", error)
        except Exception:
            log.exception("reload failed")

    # ── facts ─────────────────────────────────────────────────────────────────────────────────

    def _facts(self) -> dict[str, Any]:
        reasons = self.host.reasons()
        if self.journal.failing is not None:
            reasons.append(f"the journal cannot be written: {self.journal.failing}")
        if self.outputs.spare.is_failing:
            reasons.append(f"no output can be written to {self.paths.runs}; some lie in memory")
        parked = [entry.job.name for entry in self.scheduler.roster.entries.values() if entry.parked]
        if parked:
            reasons.append(
                f"set aside: {', '.join(parked[:5])} (echoschedd jobs says why; resume tries again)"
            )
        if hanging := self.executor.processes.spawners.hanging():
            reasons.append(f"starts hang: {', '.join(hanging[:5])} (a disk that does not answer?)")
        return {
            "worker_started_at": rfc3339(self.started_at),
            "ticks": self.heart.ticks,
            "reasons": reasons,
        }


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    import grp

    return grp.getgrnam(name).gr_gid


def run_worker(paths: Paths, *, debug: bool = False) -> int:
    """Be the worker that a supervisor started; return the exit code."""
    link = WorkerLink.from_environment()
    if link is None:
        raise EchoschedError(
            "the worker is started by the daemon, not by hand (echoschedd start --foreground)"
        )
    gc.disable()  # until all is loaded
    sys.setswitchinterval(SWITCH_SECONDS)
    precedence.go_first()
    faulthandler.enable()  # ABRT, the watchdog's first knock, writes all stacks to stderr
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        config = load(paths=paths)
    except ConfigError as error:
        link.failed(EX_NOT_CONFIGURED, str(error))
        return EX_NOT_CONFIGURED
    return asyncio.run(_live(paths, config, link))


async def _live(paths: Paths, config: Config, link: WorkerLink) -> int:
    try:
        worker = Worker(paths, config, link)
        return await worker.run()
    except EchoschedError as error:
        link.failed(error.exit_code, str(error))
        return error.exit_code
    except Exception as error:
        log.exception("the worker cannot go on")
        link.failed(EX_SOFTWARE, f"internal error: {type(error).__name__}: {error}")
        return EX_SOFTWARE

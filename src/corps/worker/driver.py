"""The worker's driver: feeds the core, carries out its effects, answers what only reads."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import assert_never

import msgspec

from corps.clock import Clock
from corps.core import events as ev
from corps.core.worker import WorkerCore
from corps.errors import CorpsError, Denied, Unavailable, error_of
from corps.model.artifact import Transfer
from corps.model.instance import Evidence, InstanceState
from corps.model.name import AttemptKey, Digest
from corps.store.soundness import Soundness
from corps.wire import keeper, worker
from corps.wire.drift import Verify
from corps.wire.probe import Probe
from corps.worker.answers import answer_probe, answer_sample, answer_series
from corps.worker.bring import bring, installed, note_of
from corps.worker.command import command, environment, is_found, no_runner
from corps.worker.fit import MachineCheck
from corps.worker.home import Home
from corps.worker.install import anyhow, install
from corps.worker.keeper_link import KeeperLink, keeper_options
from corps.worker.layout import Layout
from corps.worker.peers import Peers
from corps.worker.pulse import Pulse
from corps.worker.sampler import Sampler
from corps.worker.secrets import given
from corps.worker.state import save
from corps.worker.usage import Processes
from corps.worker.users import Users
from corps.worker.verdicts import Verdicts
from corps.worker.verification import Running, Verification
from corps.worker.watch import Watch
from corps.worker.watchdog import Watchdog
from corps.worker.witness import Witness

TICK_S = 0.1
PEAKS_EVERY_S = 5.0
REOPEN_S = 1.0
LOST_STATUS = "--lost-status"  # of the keeper: behave as on a kernel before 6.15

_log = logging.getLogger("corps.worker")


class WorkerDriver:
    """Owns the core of one worker, its keeper's link and its files."""

    def __init__(self, core: WorkerCore, home: Home, clock: Clock) -> None:
        self.core, self._clock = core, clock
        self._directory, self._name, self._file = home.directory, home.name, home.file
        self._blobs, self._trees, self._policy = home.blobs, home.trees, home.policy
        self._soundness = Soundness(home.trees, home.blobs)
        self._verification = Verification(self._soundness, home.trees, self._running)
        self._loop = asyncio.get_running_loop()
        directory = home.directory
        self._layout = Layout(directory)
        self._processes = Processes()
        self._verdicts = Verdicts(is_asked=LOST_STATUS not in keeper_options())
        options = (f"--nice={home.nice}", *(("--copied",) if home.file.is_copy else ()))
        self._witness = Witness(self._layout, self._trees, clock)
        self._watch_logs = Watch(self._layout, clock, self._is_running, home.disk_reserve_bytes)
        self._machine = MachineCheck(home.name, home.blobs, home.trees)
        self._sampler = Sampler(self._layout, self._processes, clock, home.sample_s)
        link = partial(KeeperLink, directory, there=home.keeper, options=options)
        self._keeper = link(self._keeper_said, self._keeper_gone)
        self._users = Users(home, self._keeper.send)
        self._watchdog = Watchdog(self._keeper.send)
        self._totals = worker.Totals()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_leaving, self._peaks_at = False, 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self.tell: Callable[[worker.FromWorker], None] = lambda message: None
        self.dial: Callable[[], socket.socket] = _no_master
        self.peers: Peers | None = None
        self.over: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Everything that still runs is adopted before the first word to a master."""
        await self._keeper.open()
        self._spawn_task(self._sampler.run())

    def feed(self, event: ev.WorkerEvent) -> None:
        """One event through the core. A bug in it ends the daemon; the apps run on."""
        try:
            effects = self.core.step(self._clock(), event)
            for effect in effects:
                self._perform(effect)
        except Exception as error:
            if not self.over.done():
                self.over.set_exception(error)
            raise

    def master_said(self, messages: tuple[worker.ToWorker, ...]) -> None:
        orders: list[worker.ToWorker] = []
        for message in messages:
            match message:
                case worker.Sample():
                    trees = (self._processes, self._sampler, lambda: self._totals)
                    self._spawn_task(answer_sample(message, self.tell, *trees))
                case Verify():
                    self._spawn_task(self._verification.answer(message, self.tell))
                case worker.ReadSeries():
                    self._spawn_task(answer_series(message, self.tell, self._sampler))
                case Probe():
                    refusal = self._watch_logs.refusal
                    self._spawn_task(answer_probe(message, self.tell, self._machine, refusal))
                case worker.ReadLog() | worker.ReadOutput():
                    self._spawn_task(self._read_log(message))
                case worker.Told():
                    _log.warning("the master says: %s", message.text)
                    orders.append(message)
                case _:
                    orders.append(message)
        if orders:
            self.feed(ev.MasterSaid(tuple(orders)))

    def tick(self) -> None:
        """Beats and deadlines; and the peak of each process soon after its start, then at times."""
        self._ticker = self._loop.call_later(TICK_S, self.tick)
        self.feed(ev.Tick())
        whole = self._loop.time() >= self._peaks_at
        if whole:
            self._peaks_at = self._loop.time() + PEAKS_EVERY_S
            self._keeper.ask_again()
            self._witness.tick()
        if self._watchdog.is_due(self._loop.time()):
            self._spawn_task(self._watchdog.look())
        if peaks := self._processes.peaks(whole=whole):
            self.feed(ev.Peaks(peaks))
        if self._watch_logs.is_due():
            self._spawn_task(self._look_at_logs())

    async def close(self) -> None:
        """The daemon ends, the keeper and the apps go on."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self.peers is not None:
            await asyncio.to_thread(self.peers.close)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._keeper.close()
        self._processes.close()
        self._verdicts.close()
        self._witness.close()
        self._watch_logs.close()

    # ---- effects

    def _perform(self, effect: ev.WorkerEffect) -> None:
        match effect:
            case ev.Tell():
                self.tell(effect.message)
            case ev.Instruct():
                self._keeper.send(effect.message)
            case ev.Spawn():
                self._spawn(effect)
            case ev.Fetch():
                self._spawn_task(self._fetch(effect.digest, effect.transfer))
            case ev.RemoveArtifact():
                self._spawn_task(self._remove_artifact(effect.digest))
            case ev.RemoveFiles():
                self._spawn_task(self._remove_files(effect.keys))
            case ev.Adopt():
                self._adopt(effect)
            case ev.Leave():
                self._is_leaving = True
                self._spawn_task(self._leave(effect))
            case _:
                assert_never(effect)

    def _adopt(self, heard: ev.Adopt) -> None:
        file = msgspec.structs.replace(
            self._file,
            cluster=heard.cluster,
            epoch=heard.epoch,
            life=heard.life,
            heard_seq=heard.heard_seq,
            is_copy=heard.is_copy,
        )
        try:
            self._file = save(self._directory, file)
        except OSError as error:  # a full disk: what runs is worth more than this note
            _log.error("cannot note what the master said: %s", error)

    def _spawn(self, effect: ev.Spawn) -> None:
        key, launch = effect.key, effect.launch
        if self._watch_logs.refusal is not None:
            self._block(key, "log", errno.ENOSPC, self._watch_logs.refusal)
            return
        if not effect.is_verified and not self._soundness.is_trusted(launch.digest):
            self._loop.call_soon(self.feed, ev.Unverified(key))
            return
        stage = "files"
        try:
            paths = self._trees.launch_paths(launch.digest)
            stage = "user"
            terms = self._users.terms(launch.terms)
            stage = "policy"
            terms = self._policy.hold(terms, launch, self._clock())
            stage = "log"
            work = self._layout.make(key)
            user = self._users.settle(self._layout, key, terms)
            self._watch_logs.expect(key, launch.terms.log_max_bytes)
        except CorpsError as error:
            number = errno.EPERM if isinstance(error, Denied) else errno.ENOENT
            self._block(key, stage, number, error.message)
            return
        except OSError as error:
            self._block(
                key, stage, error.errno or 0, f"cannot make its directory: {error.strerror}"
            )
            return
        env = environment(key, launch, paths, user, self._name)
        argv = command(paths, self._trees.runner(launch.digest), launch.args, env["PATH"])
        if not is_found(argv):
            said = self._witness.now(argv)
            self._block(key, "execve", errno.ENOENT, no_runner(argv, paths, env["PATH"]), said)
            return
        message = keeper.Spawn(
            key=key,
            path=argv[0],
            argv=argv,
            env=env,
            cwd=launch.cwd or work,
            stdout=self._layout.log(key, "stdout"),
            stderr=self._layout.log(key, "stderr"),
            note=launch.digest,
            work=work,
            **terms,
        )
        self._witness.spawns(message, effect.secrets)
        secrets = given(launch.terms.secrets, effect.secrets)
        self._keeper.send(msgspec.structs.replace(message, secrets=secrets))

    def _block(
        self,
        key: AttemptKey,
        stage: str,
        number: int,
        message: str,
        evidence: Evidence | None = None,
    ) -> None:
        """Never from within a step: the core is told in a turn of its own."""
        event = ev.SpawnBlocked(key, stage, number, message, evidence or self._witness.now())
        self._loop.call_soon(self.feed, event)

    async def _fetch(self, digest: Digest, transfer: Transfer) -> None:
        begin = self._clock()

        def tell(progress: worker.Progress) -> None:
            self.tell(progress)  # the connection may be another by then

        pulse = Pulse(self._loop, tell)
        try:
            if self._watch_logs.refusal is not None:
                raise Unavailable(self._watch_logs.refusal)
            require = anyhow if transfer.forced else self._machine.require
            fetch = partial(install, digest, self.dial, self._blobs, self._trees, pulse.beat)
            bring_in = partial(fetch, require, transfer=transfer, peers=self.peers)
            brought = await asyncio.to_thread(bring, digest, bring_in, self._soundness, self._trees)
        except (CorpsError, OSError) as error:
            text = error.message if isinstance(error, CorpsError) else str(error)
            _log.error("install of %s: %s", digest[:12], text)
            failed = worker.InstallFailed(digest=digest, message=text)
            self.feed(ev.Performed(failed, self._witness.now()))
            return
        if brought.findings:
            self.feed(ev.Noticed((note_of(digest, brought.findings, "repaired"),)))
        self.feed(ev.Performed(installed(digest, brought.report, self._clock() - begin)))

    async def _remove_artifact(self, digest: Digest) -> None:
        try:
            await asyncio.to_thread(self._trees.remove, digest)
        except (CorpsError, OSError) as error:
            _log.error("removal of %s: %s", digest[:12], error)
        self.feed(ev.Performed(worker.Uninstalled(digest=digest)))

    async def _remove_files(self, keys: tuple[AttemptKey, ...]) -> None:
        for key in keys:
            self._watch_logs.forget(key)
            await self._users.remove(self._layout, key)
        self.feed(ev.Performed(worker.Removed(keys=keys)))

    async def _leave(self, effect: ev.Leave) -> None:
        if effect.code is None:
            await self._keeper.wait_ended(2.0)
        if not self.over.done():
            if effect.code is None:
                self.over.set_result(None)
            else:
                self.over.set_exception(error_of(effect.code, effect.message, {}))

    # ---- the keeper

    def _keeper_said(
        self, messages: tuple[keeper.FromKeeper, ...], pidfds: dict[AttemptKey, int]
    ) -> None:
        messages = tuple(map(self._verdicts.complete, messages))
        over: list[AttemptKey] = []
        for message in messages:
            self._watch_logs.keeper_said(message)
            self._watchdog.keeper_said(message)
            match message:
                case keeper.Listing():
                    self._totals = message.totals
                    self._sampler.keeper_pid = message.keeper_pid
                    over += [kept.key for kept in message.attempts if not kept.is_live]
                    for kept in message.attempts:
                        self._watch(kept.key, kept.pid, pidfds)
                        if not kept.is_live:
                            self._processes.drop(kept.key)
                case keeper.Spawned():
                    self._watch(message.key, message.pid, pidfds)
                case keeper.Ended():
                    self._processes.drop(message.attempt.key)
                    over.append(message.attempt.key)
                case keeper.TotalsNow():
                    self._totals = message.totals
                case keeper.Cleared():
                    self._users.cleared(message)
                case keeper.Signaled() | keeper.Refused() | keeper.Stuck():
                    pass
                case _:
                    assert_never(message)
        said = self._witness.testify(messages, self._is_over)
        self.feed(msgspec.structs.replace(said, measured=self._sampler.ended(over)))

    def _watch(self, key: AttemptKey, pid: int, pidfds: dict[AttemptKey, int]) -> None:
        pidfd = pidfds.pop(key, None)
        if pidfd is not None:
            is_held = self._verdicts.hold(key, pidfd)
            if not self._processes.watch(key, pid, pidfd) or not is_held:
                self._keeper.is_short()

    def _keeper_gone(self) -> None:
        self.feed(ev.KeeperGone())
        if not self._is_leaving:
            self._spawn_task(self._reopen_keeper())

    async def _reopen_keeper(self) -> None:
        while True:
            try:
                await self._keeper.open()
            except CorpsError as error:
                if not self.over.done():
                    self.over.set_exception(error)
            except OSError as error:  # out of descriptors: what runs goes on, and so do we
                _log.error("cannot reach the keeper: %s", error)
                await asyncio.sleep(REOPEN_S)
                continue
            return

    # ---- questions

    async def _read_log(self, question: worker.ReadLog | worker.ReadOutput) -> None:
        self.tell(await self._watch_logs.read(question))

    async def _look_at_logs(self) -> None:
        if notes := await self._watch_logs.look():
            self.feed(ev.Noticed(tuple(notes)))

    def _is_running(self, key: AttemptKey) -> bool:
        report = self.core.report(key)
        return report is not None and report.state is not InstanceState.DEAD

    def _running(self) -> list[Running]:
        found = [(key, pid, self.core.report(key)) for key, pid in self.core.live()]
        return [Running(key, pid, report.digest) for key, pid, report in found if report]

    def _is_over(self, key: AttemptKey) -> bool:
        report = self.core.report(key)
        return report is not None and report.state is InstanceState.DEAD

    def _spawn_task(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.over.done():
            self.over.set_exception(error)


def _no_master() -> socket.socket:
    raise ConnectionError("no connection to the master")

"""One seed: a cluster, operators, faults; then calm, in which everything must come right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from corps.core.master import MasterCore
from corps.model.command import Remove, Stop
from corps.model.instance import Desired, Instance, InstanceState, Vanished
from corps.model.terms import Restart
from corps.model.worker import WorkerState
from tests.simulation.checkers import Witness
from tests.simulation.faults import Chaos
from tests.simulation.hosts import WorkerHost
from tests.simulation.kernel import Kernel
from tests.simulation.master import MasterHost
from tests.simulation.network import Network
from tests.simulation.workload import Operators
from tests.simulation.world import Broken, World

CHAOS_LEAST_S, CHAOS_MOST_S = 30.0, 120.0
WORKERS_LEAST, WORKERS_MOST = 2, 12
CALM_S = 60.0  # by then everything has come right
LOOK_EVERY_S = 1.0
TURN_S = 5.0  # within which an attempt that is due has begun, or is over


class Simulation:
    """Everything of one seed."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        self.world = World(seed, say)
        self.kernel = Kernel(self.world)
        self.network = Network(self.world)
        self.master = MasterHost(self.world)
        count = self.world.rng.randint(WORKERS_LEAST, WORKERS_MOST)
        self.workers = [
            WorkerHost(self.world, self.kernel, self.network, f"w{number}", self.master)
            for number in range(1, count + 1)
        ]
        names = [host.name for host in self.workers]
        self.operators = Operators(self.world, self.master, names)
        self.witness = Witness(self.world, self.kernel, self.master, self.workers)
        self.chaos = Chaos(self.world, self.network, self.master, self.workers)

    def run(self) -> None:
        """Raise Broken, or whatever a core raised."""
        world = self.world
        self.master.start()
        for host in self.workers:
            host.start()
        world.run(2.0)
        self.operators.begin()
        self.chaos.begin()
        world.run(world.delay(CHAOS_LEAST_S, CHAOS_MOST_S))
        world.note("world", "calm")
        self.operators.is_over = True
        self.chaos.calm()
        self._until(self._unsettled)
        world.note("world", "the end")
        self.operators.give(Stop(targets=("--all",), grace_s=1.0))
        self._until(self._alive)
        self.operators.give(Remove(targets=("--all",)))
        self._until(self._remains)

    def _until(self, wrongs: Callable[[], Iterator[str]]) -> None:
        end = self.world.now + CALM_S
        while found := list(wrongs()):
            if self.world.now > end:
                raise Broken(f"not right after {CALM_S:g} s of calm:\n  " + "\n  ".join(found))
            self.world.run(LOOK_EVERY_S)

    # ---- what is not right yet

    def _unsettled(self) -> Iterator[str]:
        core = self.master.core
        if core is None:
            yield "the master is down"
            return
        for order in self.operators.orders:
            if order.answer is None:
                yield f"{order.id} has no answer: {order.command}"
        for record in core.cluster.commands.values():
            if record.result is None:
                yield f"{record.id} is not done: {record.command} {record.targets}"
        for instance in core.cluster.instances.values():
            yield from self._wrong_instance(instance)
        for host in self.workers:
            yield from self._wrong_host(core, host)

    def _wrong_instance(self, instance: Instance) -> Iterator[str]:
        if not instance.is_live:
            return
        if self._goes_round(instance):
            return
        process = self.kernel.of(instance.key)
        if instance.desired is Desired.STOPPED:
            yield f"{instance.id} should be dead, is {instance.state}: {process}"
        elif instance.state is not InstanceState.RUNNING:
            yield f"{instance.id} is {instance.state}: {process}"
        elif process is None or not process.executed or not process.is_alive:
            yield f"{instance.id} is said to run: {process}"
        elif process.pid != instance.pid:
            yield f"{instance.id} has pid {process.pid}, not {instance.pid}"

    def _goes_round(self, instance: Instance) -> bool:
        """It dies and is started again for ever: right, as long as it goes on doing so."""
        if instance.restart is Restart.NEVER or instance.desired is Desired.STOPPED:
            return False
        at = instance.state_since if instance.not_before is None else instance.not_before
        return self.world.now - at < TURN_S and instance.state is not InstanceState.UNKNOWN

    def _wrong_host(self, core: MasterCore, host: WorkerHost) -> Iterator[str]:
        worker = core.cluster.workers.get(host.name)
        if worker is None or worker.state is not WorkerState.READY or host.core is None:
            yield f"{host.name} is {worker.state if worker else 'unknown'}"
            return
        for entry in host.disk.journal.entries.values():
            instance = core.cluster.instances.get(entry.key.partition("#")[0])
            if instance is not None and self._goes_round(instance):
                continue
            if not entry.is_live:
                yield f"{host.name}: the keeper still remembers {entry.key}"
            elif not host.clones and (instance is None or not instance.is_live):
                yield f"{host.name}: {entry.key} runs, and the master has it {instance}"
        for key in host.disk.files:
            report = host.core.report(key)
            instance = core.cluster.instances.get(key.partition("#")[0])
            if instance is not None and self._goes_round(instance):
                continue
            if report is not None and report.state is InstanceState.DEAD:
                yield f"{host.name}: the worker still remembers {key}"
        yield from self._wrong_files(core, host)

    def _wrong_files(self, core: MasterCore, host: WorkerHost) -> Iterator[str]:
        wanted = {
            artifact.digest
            for artifact in core.cluster.artifacts.values()
            if host.name in artifact.workers
        }
        used = {instance.launch.digest for instance in core.cluster.live_on(host.name)}
        there = set(host.disk.installed)
        told = {digest for digest in wanted | there if host.name in core.holders(digest)}
        if not there <= wanted | used and not host.clones:  # a stray may use them
            yield f"{host.name} has files nobody wants: {sorted(there - wanted - used)}"
        if told != there:
            yield f"{host.name} has {sorted(there)}, the master believes {sorted(told)}"

    def _alive(self) -> Iterator[str]:
        yield from self._unsettled()
        core = self.master.core
        if core is None:
            return
        for instance in core.cluster.instances.values():
            if instance.is_live:
                yield f"{instance.id} is alive after stop --all"
        for process in self.kernel.alive():
            known = core.cluster.instances.get(process.key.partition("#")[0])
            # What ran when its worker's state was another is a stray: left alone, by design.
            is_earlier = known is not None and known.key != process.key
            stray = known is None or is_earlier or isinstance(known.death, Vanished)
            if not (stray and any(_has_strays(h) for h in self.workers if h.name == process.host)):
                yield f"{process} is alive after stop --all"

    def _remains(self) -> Iterator[str]:
        yield from self._unsettled()
        core = self.master.core
        if core is not None:
            clones = {host.name for host in self.workers if host.clones}
            for id, instance in core.cluster.instances.items():
                if instance.worker not in clones:
                    yield f"{id} is remembered after rm --all"
        for host in self.workers:
            if host.core is not None and host.core.live() and not host.clones:
                yield f"{host.name} believes {host.core.live()}"


def _has_strays(host: WorkerHost) -> bool:
    return bool(host.wipes or host.restores or host.clones)

"""What goes wrong, and when."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.hosts import WorkerHost
from tests.simulation.master import MasterHost
from tests.simulation.network import Network
from tests.simulation.world import World


class Chaos:
    """One fault after the other until `calm`, which mends everything."""

    def __init__(
        self, world: World, network: Network, master: MasterHost, workers: list[WorkerHost]
    ) -> None:
        self._world, self._network = world, network
        self._master, self._workers = master, workers
        self.clones: list[WorkerHost] = []
        self._pace_s = world.delay(0.2, 4.0)  # some seeds are rough, some nearly quiet
        self._faults: list[tuple[int, Callable[[], None]]] = [
            (6, master.crash),
            (4, self._freeze_master),
            (3, self._slow_store),
            (8, lambda: self._worker().crash()),
            (5, self._freeze_worker),
            (8, self._crash_keeper),
            (3, self._crash_both),
            (4, lambda: self._worker().reboot()),
            (1, lambda: self._worker().wipe()),
            (2, self._restore),
            (1, self._clone),
            (10, self._cut),
            (8, lambda: self._worker().hang_up()),
            (8, self._stall),
            (12, self._partition),
            (5, self._slow_road),
        ]

    def begin(self) -> None:
        self._world.after(self._world.rng.expovariate(1 / self._pace_s), self._next)

    def calm(self) -> None:
        """From now on nothing goes wrong, and what was broken is mended."""
        self._world.is_calm = True
        self._master.commit_s = 0.003
        if self._master.is_frozen:
            self._master.thaw()
        for host in self._workers:
            self._network.road(host.name).slow_s = 0.0
            for way in ("up", "down"):
                self._network.block(host.name, way, is_blocked=False)
            if host.is_frozen:
                host.thaw()
        for clone in self.clones:
            clone.retire()

    def _restore(self) -> None:
        """Of what was backed up a while ago; most backups are never needed."""
        host = self._worker()
        host.back_up()
        self._world.after(self._world.delay(0.0, 10.0), lambda: self._put_back(host))

    def _put_back(self, host: WorkerHost) -> None:
        if not self._world.is_calm:
            host.restore()

    def _clone(self) -> None:
        clone = self._worker().clone()
        self.clones.append(clone)
        self._world.after(self._world.delay(0.1, 15.0), clone.retire)

    def _next(self) -> None:
        if self._world.is_calm:
            return
        weights = [weight for weight, _ in self._faults]
        self._world.rng.choices(self._faults, weights)[0][1]()
        self.begin()

    def _worker(self) -> WorkerHost:
        return self._world.rng.choice(self._workers)

    def _freeze_master(self) -> None:
        self._world.note("master", "is frozen")
        self._master.freeze()
        self._world.after(self._world.delay(0.1, 8.0), self._thaw_master)

    def _thaw_master(self) -> None:
        if self._master.is_frozen:
            self._world.note("master", "goes on")
            self._master.thaw()

    def _slow_store(self) -> None:
        self._master.commit_s = self._world.delay(0.01, 0.6)
        self._world.after(self._world.delay(0.5, 5), self._mend_store)

    def _mend_store(self) -> None:
        self._master.commit_s = 0.003

    def _freeze_worker(self) -> None:
        host = self._worker()
        self._world.note(host.name, "is frozen")
        host.freeze()
        self._world.after(self._world.delay(0.1, 5.0), lambda: self._thaw(host))

    def _thaw(self, host: WorkerHost) -> None:
        if host.is_frozen:
            self._world.note(host.name, "goes on")
            host.thaw()

    def _crash_keeper(self) -> None:
        host = self._worker()
        if host.keeper is not None:
            host.keeper.crash()

    def _crash_both(self) -> None:
        host = self._worker()
        if host.keeper is not None:
            host.keeper.crash()
        host.crash()

    def _cut(self) -> None:
        host = self._worker()
        line = self._network.newest(host.name)
        if line is not None:
            self._world.note(host.name, "its line is cut")
            line.cut(2.0)

    def _stall(self) -> None:
        """One connection loses a segment; perhaps its worker gives it up in the meantime."""
        host = self._worker()
        line = self._network.newest(host.name)
        if line is not None:
            self._world.note(host.name, "its line stalls")
            line.up.stall(self._world.delay(0.2, 4.0))
            if self._world.rng.random() < 0.7:
                self._world.after(self._world.delay(0.0, 0.5), host.hang_up)

    def _partition(self) -> None:
        host = self._worker()
        ways = self._world.rng.choice((("up",), ("down",), ("up", "down")))
        self._world.note(host.name, f"partition: {' and '.join(ways)}")
        for way in ways:
            self._network.block(host.name, way, is_blocked=True)
        self._world.after(self._world.delay(0.1, 6.0), lambda: self._heal(host, ways))

    def _heal(self, host: WorkerHost, ways: tuple[str, ...]) -> None:
        for way in ways:
            self._network.block(host.name, way, is_blocked=False)
        # TCP may have given up in the meantime, at either end or at both.
        line = self._network.newest(host.name)
        if line is not None and self._world.rng.random() < 0.3:
            line.cut(1.0)

    def _slow_road(self) -> None:
        host = self._worker()
        self._network.road(host.name).slow_s = self._world.delay(0.02, 0.8)
        self._world.after(self._world.delay(0.5, 6), lambda: self._mend_road(host))

    def _mend_road(self, host: WorkerHost) -> None:
        self._network.road(host.name).slow_s = 0.0

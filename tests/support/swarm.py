"""A swarm on paper: links shared fairly, time in steps, every decision taken by the real core.

The unit of time is what one unit takes on a link of rate 1 that nobody else uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from corps.core.supply import Supply
from corps.core.swarm import MASTER, PEERS_MAX, Swarm

STEP_S = 1 / 8
WAYS = ("up", "down")


@dataclass
class Flow:
    """One unit on its way."""

    source: str
    target: str
    unit: int
    left: float = 1.0


class Paper:
    """A master with `units` units, and workers that begin with none."""

    def __init__(self, workers: int, units: int, seed: int = 1) -> None:
        rng = Random(seed)
        self.now = 0.0
        self.names = [f"w{number}" for number in range(1, workers + 1)]
        self.rates = {name: 1.0 for name in (MASTER, *self.names)}  # noqa: C420 - one for each
        self.swarms = {name: Swarm(units, 0, Random(rng.random())) for name in self.names}
        self.peers = {name: self._some_others(name, rng) for name in self.names}
        self.done_at: dict[str, float] = {}
        self.arrived: dict[str, list[int]] = {name: [] for name in self.names}
        self.sent_by_master = 0
        self._supply = Supply()
        self._flows: dict[tuple[str, str], Flow] = {}  # one question for each pair

    def run(self, limit_s: float) -> float:
        """Until all that have not left are done: when the last one was."""
        while any(name not in self.done_at for name in self.names):
            assert self.now < limit_s, f"{sorted(self.done_at)} of {self.names} after {limit_s} s"
            self.step()
        return max(self.done_at[name] for name in self.names)

    def step(self) -> None:
        for name in self.names:
            self._ask(name)
        self.now += STEP_S
        for flow, rate in self._shares():
            flow.left -= STEP_S * rate
            if flow.left <= 0:
                self._arrive(flow)

    def leave(self, name: str) -> None:
        """Its machine is gone, with all that was under way."""
        self.names.remove(name)
        self._flows = {pair: flow for pair, flow in self._flows.items() if name not in pair}
        for other in self.names:
            self.swarms[other].left(name)
            if name in self.peers[other]:
                self.peers[other].remove(name)

    def _some_others(self, name: str, rng: Random) -> list[str]:
        others = [other for other in self.names if other != name]
        return rng.sample(others, min(PEERS_MAX, len(others)))

    def _ask(self, name: str) -> None:
        swarm = self.swarms[name]
        if (name, MASTER) not in self._flows:
            unit = self._supply.choose(swarm.wanted(self.now))
            if unit is not None:
                swarm.asked(MASTER, unit, self.now)
                self.sent_by_master += 1
                self._flows[name, MASTER] = Flow(MASTER, name, unit)
        for peer in self.peers[name]:
            if (name, peer) not in self._flows:
                swarm.holds(peer, self.swarms[peer].have)
                unit = swarm.next_of(peer, self.now)
                if unit is not None:
                    self._flows[name, peer] = Flow(peer, name, unit)

    def _arrive(self, flow: Flow) -> None:
        del self._flows[flow.target, flow.source]
        swarm = self.swarms[flow.target]
        swarm.arrived(flow.source, flow.unit, self.now)
        self.arrived[flow.target].append(flow.unit)
        if swarm.is_done:
            self.done_at.setdefault(flow.target, self.now)

    def _shares(self) -> list[tuple[Flow, float]]:
        """Max-min fair, as TCP roughly is: the narrowest link divides what it has, and so on."""
        flows = list(self._flows.values())
        room = {f"{name} {way}": rate for name, rate in self.rates.items() for way in WAYS}
        links = [(f"{flow.source} up", f"{flow.target} down") for flow in flows]
        users: dict[str, list[int]] = {}
        for at, ends in enumerate(links):
            for link in ends:
                users.setdefault(link, []).append(at)
        unsettled = {link: len(using) for link, using in users.items()}
        shares: dict[int, float] = {}
        while unsettled:
            narrowest = min(unsettled, key=lambda link: room[link] / unsettled[link])
            share = room[narrowest] / unsettled[narrowest]
            for at in [at for at in users[narrowest] if at not in shares]:
                shares[at] = share
                for link in links[at]:
                    room[link] -= share
                    unsettled[link] -= 1
            unsettled = {link: count for link, count in unsettled.items() if count}
        return [(flow, shares[at]) for at, flow in enumerate(flows)]

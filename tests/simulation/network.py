"""Fake network: connections that keep order while they last, and break at any moment.

What an end sent before it closed may still arrive, long after a newer connection was made; what is
in flight when a connection is cut is lost in both directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from corps.wire.worker import FromWorker, ToWorker
from tests.simulation.world import World

M = TypeVar("M")
SYN_S = 0.002
RETRANSMIT_S = 1.0
GIVEN_UP_CHANCE = 0.05
LINES_KEPT = 8


class Caller(Protocol):
    """A worker's end."""

    def linked(self, line: Line) -> None: ...
    def heard(self, line: Line, messages: tuple[ToWorker, ...]) -> None: ...
    def unlinked(self, line: Line) -> None: ...


class Listener(Protocol):
    """The master's end."""

    def accepts(self) -> bool: ...
    def opened(self, line: Line) -> None: ...
    def received(self, line: Line, messages: tuple[FromWorker, ...]) -> None: ...
    def closed(self, line: Line) -> None: ...


class Road:
    """What lies between one host and the master: partitions and delay, each way."""

    def __init__(self, world: World, host: str) -> None:
        self._world, self.host = world, host
        self.blocked = {"up": False, "down": False}
        self.slow_s = 0.0

    def delay_s(self) -> float:
        return self._world.delay(0.0005, 0.004) + self._world.rng.random() * self.slow_s


class Pipe(Generic[M]):
    """One direction of a line: first in, first out, until it is lost."""

    def __init__(
        self,
        world: World,
        road: Road,
        way: str,
        ends: tuple[Callable[[tuple[M, ...]], None], Callable[[], None]],
    ) -> None:
        self._world, self._road, self._way = world, road, way
        self._deliver, self._finish = ends
        self._queue: deque[tuple[float, M | None]] = deque()  # None: the end
        self._last_at = 0.0
        self._stalled_until = 0.0
        self._is_lost = False

    def send(self, message: M | None) -> None:
        if self._is_lost:
            return
        self._last_at = max(self._last_at, self._world.now + self._road.delay_s())
        self._queue.append((self._last_at, message))
        self._world.after(self._last_at - self._world.now, self.pump)

    def lose(self) -> None:
        self._is_lost = True
        self._queue.clear()

    def stall(self, duration_s: float) -> None:
        """A lost segment is sent again after a while: this connection waits, others do not."""
        self._stalled_until = max(self._stalled_until, self._world.now + duration_s)
        self._world.after(self._stalled_until - self._world.now, self.pump)

    def pump(self) -> None:
        """Deliver what has arrived; behind a partition it waits, as TCP sends it again."""
        if self._road.blocked[self._way] or self._world.now < self._stalled_until:
            return
        batch: list[M] = []
        is_over = False
        while self._queue and self._queue[0][0] <= self._world.now:
            _, message = self._queue.popleft()
            if message is None:
                is_over = True
            else:
                batch.append(message)
        if batch:
            self._deliver(tuple(batch))
        if is_over and not self._is_lost:
            self.lose()
            self._finish()


class Line:
    """One connection. Each end learns of its end on its own."""

    def __init__(self, world: World, road: Road, caller: Caller, listener: Listener) -> None:
        self._world, self._caller, self._listener = world, caller, listener
        self.host = road.host
        self.session = 0
        self._caller_knows = self._listener_knows = True  # that it is open
        self.up: Pipe[FromWorker] = Pipe(
            world,
            road,
            "up",
            (lambda messages: listener.received(self, messages), self._listener_ends),
        )
        self.down: Pipe[ToWorker] = Pipe(
            world, road, "down", (lambda messages: caller.heard(self, messages), self.caller_ends)
        )

    def hang_up_caller(self) -> None:
        """The worker closes: what it sent before still arrives."""
        if self._caller_knows:
            self._caller_knows = False
            self.down.lose()
            self.up.send(None)

    def hang_up_listener(self) -> None:
        """The master closes."""
        if self._listener_knows:
            self._listener_knows = False
            self.up.lose()
            self.down.send(None)

    def cut(self, most_s: float) -> None:
        """Everything in flight is lost; each end notices within `most_s`."""
        self.up.lose()
        self.down.lose()
        self._world.after(self._world.rng.random() * most_s, self.caller_ends)
        self._world.after(self._world.rng.random() * most_s, self._listener_ends)

    def caller_ends(self) -> None:
        """The worker's end learns that it is over."""
        if self._caller_knows:
            self.hang_up_caller()
            self._caller.unlinked(self)

    def _listener_ends(self) -> None:
        if self._listener_knows:
            self.hang_up_listener()
            self._listener.closed(self)


class Network:
    """Every line that was ever made and is not forgotten yet."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.roads: dict[str, Road] = {}
        self._lines: dict[str, deque[Line]] = {}

    def road(self, host: str) -> Road:
        return self.roads.setdefault(host, Road(self._world, host))

    def dial(self, host: str, caller: Caller, listener: Listener, fail: Callable[[], None]) -> None:
        """`caller.linked` or `fail` follows."""
        road = self.road(host)

        def arrive() -> None:
            if any(road.blocked.values()) or not listener.accepts():
                self._world.after(road.delay_s(), fail)
                return
            line = Line(self._world, road, caller, listener)
            self._lines.setdefault(host, deque(maxlen=LINES_KEPT)).append(line)
            listener.opened(line)
            caller.linked(line)
            if self._world.chance(GIVEN_UP_CHANCE):
                self._give_up(line)

        self._world.after(SYN_S + road.delay_s(), arrive)

    def _give_up(self, line: Line) -> None:
        """The worker soon takes the connection for dead: what it said there arrives much later."""
        soon_s = self._world.delay(0.0, 0.03)
        self._world.after(soon_s, lambda: line.up.stall(self._world.delay(0.2, 3.0)))
        self._world.after(soon_s + 0.05, line.caller_ends)

    def block(self, host: str, way: str, is_blocked: bool) -> None:
        self.road(host).blocked[way] = is_blocked
        for line in () if is_blocked else tuple(self._lines.get(host, ())):
            line.up.stall(self._world.rng.random() * RETRANSMIT_S)
            line.down.stall(self._world.rng.random() * RETRANSMIT_S)

    def newest(self, host: str) -> Line | None:
        lines = self._lines.get(host)
        return lines[-1] if lines else None

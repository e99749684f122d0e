"""Operators: they copy, launch, stop, kill, signal and remove, ask again, and never give up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from corps.core.events import ArtifactFacts, Commanded, Reply
from corps.core.secrets import next_version
from corps.model.command import (
    AnyCommand,
    AnyResult,
    Copy,
    Delete,
    Failure,
    Kill,
    Launch,
    Remove,
    Signal,
    Stop,
)
from corps.model.secret import AsFile, DeleteSecret, Sealed, SetSecret, Use
from corps.model.terms import Restart, Terms
from tests.simulation.master import MasterHost
from tests.simulation.world import World

ARTIFACTS = ("web", "api", "db.main")
SECRETS = ("key", "password", "token")
VERSIONS = 2
LOST_REPLY_CHANCE = 0.05
LIVE_MAX = 60
KINDS = [
    "sleeps",
    "sleeps",
    "exits",
    "crashes",
    "suicide",
    "polite",
    "stubborn",
    "missing",
    "damaged",
]


@dataclass
class Order:
    """One command, and what its operator heard of it."""

    id: str
    command: AnyCommand
    answer: AnyResult | None = None
    is_strange: bool = False  # the id of another's command with a body of its own

    @property
    def body(self) -> str:
        return repr(self.command)


class Operators:
    """Every order that was ever given."""

    def __init__(self, world: World, master: MasterHost, workers: list[str]) -> None:
        self._world, self._master, self._workers = world, master, workers
        self.orders: list[Order] = []
        self.is_over = False
        self._waiting: dict[tuple[str, str], list[Order]] = {}
        master.on_reply = self._replied

    def begin(self) -> None:
        for name in ARTIFACTS:
            self.give(self._copy(name))
        for name in SECRETS[:2]:
            content = Sealed(version=1, nonce=b"", box=f"{name} 1".encode())
            self.give(SetSecret(name=name, content=content))
        self._world.after(1.0, self._next)

    def give(self, command: AnyCommand) -> Order:
        order = Order(id=f"command-{len(self.orders):05d}", command=command)
        self.orders.append(order)
        self._submit(order)
        return order

    def _next(self) -> None:
        if self.is_over:
            return
        order = self.give(self._anything())
        if isinstance(order.command, Delete):
            self._world.after(self._world.delay(0.0, 0.5), self._regret)
        rng = self._world.rng
        if rng.random() < 0.1:
            self._submit(rng.choice(self.orders))  # asked again, perhaps long after
        if rng.random() < 0.03:
            own, other = rng.choice(self.orders), self._anything()
            if other != own.command:
                self._submit(Order(own.id, other, is_strange=True))
        self._world.after(self._world.delay(0.05, 1.2), self._next)

    def _regret(self) -> None:
        """What was deleted is needed after all, while it is being removed."""
        if self.is_over:
            return
        for name in ARTIFACTS[: self._world.rng.randrange(len(ARTIFACTS) + 1)]:
            self.give(self._copy(name))
            self.give(Launch(artifact=name, on="all", args=("sleeps", "0", "0")))

    def _submit(self, order: Order) -> None:
        rng = self._world.rng
        event = Commanded(
            order.id, order.body, order.command, f"op{rng.randrange(3)}", ArtifactFacts(10, 1)
        )
        for _ in range(2 if rng.random() < 0.05 else 1):
            self._world.after(self._world.delay(0.0005, 0.05), lambda: self._arrive(order, event))
        if not order.is_strange:
            self._world.after(self._world.delay(0.5, 4.0), lambda: self._ask_again(order))

    def _arrive(self, order: Order, event: Commanded) -> None:
        if self._master.core is not None:
            self._waiting.setdefault((order.id, order.body), []).append(order)
            self._master.submit(event)

    def _ask_again(self, order: Order) -> None:
        if order.answer is None:
            self._submit(order)

    def _replied(self, reply: Reply) -> None:
        for order in self._waiting.pop((reply.id, reply.body), []):
            if self._world.chance(LOST_REPLY_CHANCE):
                continue
            if order.is_strange:
                self._heard_strange(order, reply)
            else:
                self._heard(order, reply.result)

    def _heard(self, order: Order, answer: AnyResult) -> None:
        if order.answer is None:
            order.answer = answer
        elif not isinstance(order.answer, Failure):
            self._world.require(order.answer == answer, f"{order.id} was answered differently")

    def _heard_strange(self, order: Order, reply: Reply) -> None:
        own = next(own for own in self.orders if own.id == order.id)
        refused = isinstance(reply.result, Failure) and reply.result.code == "conflict"
        accepted_before = own.answer is not None and not isinstance(own.answer, Failure)
        self._world.require(
            refused or not accepted_before, f"{order.id} means two things at once: {reply.result}"
        )

    # ---- what they ask for

    def _anything(self) -> AnyCommand:
        makers: list[tuple[int, Callable[[], AnyCommand]]] = [
            (35, self._launch),
            (14, lambda: Stop(targets=self._targets(), grace_s=self._world.delay(0, 4))),
            (9, lambda: Kill(targets=self._targets())),
            (12, self._signal),
            (8, lambda: Remove(targets=self._targets())),
            (12, lambda: self._copy(self._world.rng.choice(ARTIFACTS))),
            (7, self._delete),
            (6, self._set_secret),
            (3, lambda: DeleteSecret(name=self._world.rng.choice(SECRETS))),
        ]
        core = self._master.core
        if core and sum(i.is_live for i in core.cluster.instances.values()) > LIVE_MAX:
            return Stop(targets=("--all",), grace_s=1.0)
        weights = [weight for weight, _ in makers]
        return self._world.rng.choices(makers, weights)[0][1]()

    def _launch(self) -> Launch:
        rng = self._world.rng
        kind = rng.choice(KINDS)
        restart = rng.choice((Restart.NEVER, Restart.NEVER, Restart.ON_FAILURE, Restart.ALWAYS))
        gives_up = restart is Restart.ON_FAILURE and rng.random() < 0.3
        after_s = 0.0 if rng.random() < 0.15 else rng.uniform(0, 15 if kind == "exits" else 4)
        return Launch(
            artifact=rng.choice(ARTIFACTS),
            on=rng.choice((None, None, "all", "zone=a", rng.choice(self._workers))),
            count=rng.choice((None, 1, 2, 5)),
            args=(kind, f"{after_s:.3f}", str(rng.randrange(4))),
            restart=restart,
            failures_max=rng.randrange(1, 4) if gives_up else None,
            terms=Terms(secrets=self._uses()),
        )

    def _uses(self) -> tuple[Use, ...]:
        rng = self._world.rng
        count = rng.choice((0, 0, 0, 1, 2))
        return tuple(AsFile(name=name, file=name) for name in rng.sample(SECRETS, count))

    def _set_secret(self) -> SetSecret:
        """As the master's edge seals it, which knows the next version; it may be late."""
        name, core = self._world.rng.choice(SECRETS), self._master.core
        version = 1 if core is None else next_version(core.cluster, name)
        box = f"{name} {version}".encode()
        return SetSecret(name=name, content=Sealed(version=version, nonce=b"", box=box))

    def _signal(self) -> Signal:
        return Signal(targets=self._targets(), signal=self._world.rng.choice((1, 2, 9, 10, 15, 18)))

    def _copy(self, name: str) -> Copy:
        rng = self._world.rng
        version = rng.randrange(VERSIONS)
        to = "all" if rng.random() < 0.6 else rng.choice(self._workers)
        return Copy(
            name=name, digest=f"{ARTIFACTS.index(name) * VERSIONS + version + 1:064x}", to=to
        )

    def _delete(self) -> Delete:
        rng = self._world.rng
        where = "all" if rng.random() < 0.5 else rng.choice(self._workers)
        return Delete(artifact=rng.choice(ARTIFACTS), workers=where)

    def _targets(self) -> tuple[str, ...]:
        rng = self._world.rng
        core = self._master.core
        known = sorted(core.cluster.instances) if core is not None else []
        if not known or rng.random() < 0.03:
            return ("nobody.7",)
        if rng.random() < 0.04:
            return ("--all",)
        if rng.random() < 0.08:
            return (rng.choice(ARTIFACTS),)
        return tuple(rng.sample(known[-40:], min(len(known), rng.choice((1, 1, 1, 3)))))

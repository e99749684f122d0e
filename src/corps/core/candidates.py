"""Which workers a command may choose from: those that are meant, usable, and can run it."""

from __future__ import annotations

from collections.abc import Container

from corps.core.cluster import Cluster
from corps.core.ledger import Ledger
from corps.errors import Denied, Unavailable
from corps.model.artifact import Artifact
from corps.model.command import Launch
from corps.model.name import WorkerName
from corps.model.selector import parse_selector, select
from corps.model.worker import Worker, WorkerState


def chosen_workers(ledger: Ledger, selector: str) -> list[Worker]:
    return select(parse_selector(selector), ledger.cluster.workers.values())


def usable_workers(ledger: Ledger, command: Launch, artifact: Artifact) -> list[Worker]:
    """Usable workers that can run it: those of `on`, else those that have it, else any."""
    on, fitness = command.on, ledger.fitness
    everyone = chosen_workers(ledger, on if on is not None else "all")
    usable = [w for w in everyone if w.state is WorkerState.READY and w.name in ledger.session_of]
    if on is None:
        usable = _able_to_be(usable, command, ())
        having = [w for w in usable if w.name in artifact.workers]
        return fitness.able(having, artifact) or fitness.require(_some(usable, everyone), artifact)
    named = parse_selector(on).names
    for worker in everyone:
        if worker.name in named and worker not in usable:
            raise Unavailable(f"{gone(ledger.cluster, worker.name)}: nothing was launched")
    usable = _able_to_be(usable, command, named)
    able = fitness.require(_some(usable, everyone), artifact)
    if command.count is None:  # one on each that was named, or none at all
        for worker in usable:
            if worker.name in named and worker not in able:
                reason = fitness.reason(worker.name, artifact.digest)
                raise Unavailable(f"{reason}: nothing was launched")
    return able


def _able_to_be(usable: list[Worker], command: Launch, named: Container[str]) -> list[Worker]:
    """Those that can run it as its user; Denied when none can, or one that was named cannot."""
    user = command.terms.user
    name = None if user is None else user.partition(":")[0]
    able = [w for w in usable if name is None or name in (w.facts.runs_as or (name,))]
    for worker in usable:
        is_meant = command.count is None and worker.name in named
        if worker not in able and (is_meant or not able):
            raise Denied(
                f"{worker.name} runs as {worker.facts.runs_as[0]!r}: it cannot run anything as "
                f"{user!r}; nothing was launched"
            )
    return able


def _some(usable: list[Worker], everyone: list[Worker]) -> list[Worker]:
    if usable:
        return usable
    if not everyone:
        raise Unavailable("no worker fits: none has joined, or none has these labels")
    states = ", ".join(f"{worker.name} is {worker.state}" for worker in everyone[:10])
    raise Unavailable(f"no usable worker: {states}")


def gone(cluster: Cluster, name: WorkerName) -> str:
    """Why nothing can be done on a worker now."""
    return f"worker {name!r} is {cluster.workers[name].state}"

"""What workers report, held against what the master knows: the truth about each instance.

A report never resurrects the dead, never moves an instance backwards, and counts only from the
worker the instance is bound to.
"""

from __future__ import annotations

import msgspec

from corps.core.accept import end_message
from corps.core.explain import explain
from corps.core.ledger import Ledger
from corps.core.orders import Orders
from corps.errors import CorpsError
from corps.model.instance import (
    MOVES,
    Death,
    Desired,
    Instance,
    InstanceState,
    SpawnFailed,
    Vanished,
    move,
)
from corps.model.name import AttemptKey, WorkerName, split_attempt_key
from corps.wire.worker import Forget, Report, Start

ECANCELED = 125


class Observer:
    """Applies reports to instances, and says what became of those a worker no longer has."""

    def __init__(self, ledger: Ledger, orders: Orders) -> None:
        self._ledger = ledger
        self._orders = orders
        self._foreign: dict[AttemptKey, None] = {}

    def reported(self, worker: WorkerName, reports: tuple[Report, ...]) -> None:
        """Apply, then let the worker forget the deaths that are durable here."""
        dead: list[AttemptKey] = []
        for report in reports:
            instance = self._instance_of(worker, report)
            if instance is None:
                continue
            if instance.is_live:
                instance = self._apply(instance, report)
            elif report.state is not InstanceState.DEAD:
                self._strange(worker, report.key, "is reported alive after its death was recorded")
            if not instance.is_live and report.state is InstanceState.DEAD:
                dead.append(report.key)
        if dead:
            self._ledger.send_to(worker, Forget(keys=tuple(dead)))

    def worker_lost(self, worker: WorkerName) -> None:
        """Nobody can say now whether its instances run."""
        for instance in self._ledger.cluster.live_on(worker):
            if instance.state is not InstanceState.UNKNOWN:
                self._change(move(instance, InstanceState.UNKNOWN, self._ledger.now))
                text = f"{worker} was lost: nobody knows whether it still runs"
                self._ledger.happened("unknown", instance.id, text, worker)

    def rejoined(
        self, worker: WorkerName, reports: tuple[Report, ...], *, same_boot: bool, same_state: bool
    ) -> None:
        """The worker said everything it still has: settle each instance it should have.

        Not listed, on the same boot and state, and never acknowledged: it was never started there,
        so it is sent again. Not listed after a reboot or with other state: it may have run.
        """
        listed = {report.key for report in reports}
        before = self._ledger.cluster.live_on(worker)
        self.reported(worker, reports)
        for instance in before:
            if instance.key in listed:
                self._press(instance.key)
            elif instance.pid is None and same_boot and same_state:
                self._send_again(instance)
            else:
                self._vanish(instance, same_boot, same_state)

    def _instance_of(self, worker: WorkerName, report: Report) -> Instance | None:
        try:
            id, attempt = split_attempt_key(report.key)
        except CorpsError:
            self._strange(worker, report.key[:80], "is no attempt")
            return None
        instance = self._ledger.cluster.instances.get(id)
        if instance is None or instance.attempt != attempt:
            self._strange(worker, report.key, "is not known here")
            return None
        if instance.worker != worker:
            self._strange(worker, report.key, f"belongs to {instance.worker}")
            return None
        return instance

    def _apply(self, instance: Instance, report: Report) -> Instance:
        now = self._ledger.now
        if report.state is not instance.state and report.state not in MOVES[instance.state]:
            return instance
        came_back = instance.state is InstanceState.UNKNOWN
        changed = _with_facts(instance, report)
        if report.death is not None:
            return self._bury(changed, report.death)
        if report.state is InstanceState.DEAD:
            return self._bury(changed, Vanished(reason="its worker reported no reason"))
        if report.state is not instance.state:
            changed = move(changed, report.state, now)
        if changed != instance:
            self._change(changed)
            self._tell_story(instance, changed, came_back)
        return changed

    def _tell_story(self, old: Instance, new: Instance, came_back: bool) -> None:
        if came_back:
            text = f"{new.worker} is back and says: {new.state}"
            self._ledger.happened("found", new.id, text, new.worker)
        elif new.state is InstanceState.RUNNING and old.state is not InstanceState.RUNNING:
            self._ledger.happened("started", new.id, f"running as pid {new.pid}", new.worker)
        elif new.state is InstanceState.FETCHING and old.state is not InstanceState.FETCHING:
            text = f"{new.worker} fetches the files it lacks"
            self._ledger.happened("fetching", new.id, text, new.worker)

    def _bury(self, instance: Instance, death: Death) -> Instance:
        cause, message = explain(death, instance.asked, instance.delivered)
        now = self._ledger.now
        dead = msgspec.structs.replace(
            move(instance, InstanceState.DEAD, now),
            death=death,
            cause=cause,
            message=message,
            ended_at=instance.ended_at if instance.ended_at is not None else now,
        )
        self._change(dead)
        self._ledger.happened("died", dead.id, message, dead.worker)
        return dead

    def _send_again(self, instance: Instance) -> None:
        if instance.desired is Desired.STOPPED:
            text = "stopped before its worker had started it"
            self._bury(instance, SpawnFailed(stage="cancelled", errno=ECANCELED, message=text))
            return
        if instance.state is not InstanceState.PENDING:
            instance = move(instance, InstanceState.PENDING, self._ledger.now)
            self._change(instance)
        self._ledger.send_to(instance.worker, Start(key=instance.key, launch=instance.launch))

    def _press(self, key: AttemptKey) -> None:
        """It should be ended, and its worker may not have heard so."""
        instance = self._ledger.cluster.instances.get(key.rpartition("#")[0])
        if instance and instance.is_live and instance.desired is Desired.STOPPED:
            self._ledger.send_to(instance.worker, end_message(instance, self._ledger.now))

    def _vanish(self, instance: Instance, same_boot: bool, same_state: bool) -> None:
        if not same_boot:
            reason = f"the machine of {instance.worker} was rebooted"
        elif not same_state:
            reason = f"the state directory of {instance.worker} is another one now"
        else:
            reason = f"{instance.worker} has no record of it any more"
        self._bury(instance, Vanished(reason=reason, may_have_run=instance.pid is None))

    def _strange(self, worker: WorkerName, key: AttemptKey, what: str) -> None:
        """Said once per attempt: never a reason to end anything."""
        if key not in self._foreign and len(self._foreign) < 10_000:
            self._foreign[key] = None
            self._ledger.happened("foreign", worker, f"attempt {key!r} {what}: left alone", worker)

    def _change(self, instance: Instance) -> None:
        self._ledger.save(instance)
        self._orders.settle(instance)


def _with_facts(instance: Instance, report: Report) -> Instance:
    timings = msgspec.structs.replace(
        instance.timings,
        received_at=report.received_at or instance.timings.received_at,
        fetched_at=report.fetched_at or instance.timings.fetched_at,
        forked_at=report.forked_at or instance.timings.forked_at,
        executed_at=report.started_at or instance.timings.executed_at,
    )
    return msgspec.structs.replace(
        instance,
        timings=timings,
        pid=report.pid or instance.pid,
        started_at=report.started_at or instance.started_at,
        ended_at=report.ended_at or instance.ended_at,
        delivered=report.delivered or instance.delivered,
        usage=report.usage or instance.usage,
    )

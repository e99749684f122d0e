"""What workers report, held against what the master knows: the truth about each instance.

A report never resurrects the dead, never moves an instance backwards, and counts only from the
worker the instance is bound to.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corps.core import believe
from corps.core.accept import end_message
from corps.core.explain import explain
from corps.core.ledger import Ledger
from corps.core.lineage import Doubt, reason
from corps.core.orders import Orders
from corps.core.skew import report_on_ours
from corps.errors import CorpsError
from corps.model.certificate import certify
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
from corps.model.name import AttemptKey, WorkerName, split_attempt_key, split_instance_id
from corps.wire.worker import Forget, Report, Start

ECANCELED = 125
FOREIGN_MAX = 1_000  # attempts that are told of as foreign
NUMBER_MAX = 1_000_000_000


class Observer:
    """Applies reports to instances, and says what became of those a worker no longer has."""

    def __init__(self, ledger: Ledger, orders: Orders) -> None:
        self._ledger = ledger
        self._orders = orders
        self._foreign: dict[AttemptKey, None] = {}

    def reported(self, worker: WorkerName, reports: Sequence[Report]) -> None:
        """Apply, then let the worker forget the deaths that are durable here."""
        over: list[AttemptKey] = []
        ahead = self._ledger.ahead_s.get(worker, 0.0)
        for said in [report_on_ours(one, ahead) for one in reports] if ahead else reports:
            report = believe.report(said)
            if report is not None and self._is_over(worker, report):
                over.append(report.key)
        if over:
            self._ledger.send_to(worker, Forget(keys=tuple(over), seq=self._ledger.last_seq))

    def worker_lost(self, worker: WorkerName) -> None:
        """Nobody can say now whether its instances run."""
        for instance in self._ledger.cluster.live_on(worker):
            if instance.state is not InstanceState.UNKNOWN:
                self._change(move(instance, InstanceState.UNKNOWN, self._ledger.now))
                text = f"{worker} was lost: nobody knows whether it still runs"
                self._ledger.happened("unknown", instance.id, text, worker)

    def rejoined(
        self, worker: WorkerName, reports: Sequence[Report], doubt: Doubt | None
    ) -> Doubt | None:
        """The worker said everything it still has: settle each instance it should have.

        Not listed and never acknowledged, it was never started there, and is sent again. With a
        doubt it may have run. To miss what it had acknowledged is a doubt too; returns what holds.
        """
        listed = {report.key for report in reports}
        before = self._ledger.cluster.live_on(worker)
        self.reported(worker, reports)
        missing = [instance for instance in before if instance.key not in listed]
        if doubt is None and any(instance.pid is not None for instance in missing):
            doubt = Doubt.SET_BACK
        for instance in before:
            if instance.key in listed:
                self._press(instance.id)
        for instance in missing:
            if doubt is None:
                self._send_again(instance)
            else:
                death = Vanished(reason=reason(doubt, worker), may_have_run=True)
                self._bury(instance, death, was_seen=instance.started_at is not None)
        return doubt

    def _is_over(self, worker: WorkerName, report: Report) -> bool:
        """Apply one report. True: its attempt is dead, and the worker need not tell it again."""
        is_dead = report.state is InstanceState.DEAD
        try:
            id, attempt = split_attempt_key(report.key)
        except CorpsError:
            self._strange(worker, report.key[:80], "is no attempt")
            return False
        instance = self._ledger.cluster.instances.get(id)
        if instance is None and self._was_ours(id):
            if not is_dead:
                self._strange(worker, report.key, "lives, and its record was removed")
            return is_dead
        if instance is None or instance.attempt != attempt:
            self._strange(worker, report.key, "is not known here")
            self._take_number(id)
            return False
        if instance.worker != worker:
            self._strange(worker, report.key, f"belongs to {instance.worker}")
            return False
        if instance.is_live:
            instance = self._apply(instance, report)
        elif not is_dead:
            self._strange(worker, report.key, "is reported alive after its death was recorded")
        return is_dead and not instance.is_live

    def _was_ours(self, id: str) -> bool:
        """Its number was given out here, so its record was removed after its death."""
        app, number = split_instance_id(id) or ("", 0)
        known = self._ledger.cluster.apps.get(app)
        return known is not None and number < known.next_number

    def _take_number(self, id: str) -> None:
        """A store that was set back would give the number out again: two programs, one name."""
        app, number = split_instance_id(id) or ("", 0)
        taken = self._ledger.taken
        if number < NUMBER_MAX and (app in taken or len(taken) < FOREIGN_MAX):
            taken[app] = max(number, taken.get(app, 0))

    def _apply(self, instance: Instance, report: Report) -> Instance:
        now = self._ledger.now
        if report.state is not instance.state and report.state not in MOVES[instance.state]:
            return instance
        changed = _with_facts(instance, report)
        if report.state is InstanceState.DEAD:
            death = report.death or Vanished(reason="its worker reported no reason")
            return self._bury(changed, death, was_seen=instance.started_at is not None)
        if report.state is InstanceState.RUNNING and changed.pid is None:
            return instance  # running as nothing: not a word of it is believed
        if report.state is not instance.state:
            changed = move(changed, report.state, now)
        if changed != instance:
            self._change(changed)
            self._tell_story(instance, changed)
        return changed

    def _tell_story(self, old: Instance, new: Instance) -> None:
        if new.state is old.state:
            return
        if old.state is InstanceState.UNKNOWN:
            text = f"{new.worker} is back and says: {new.state}"
            self._ledger.happened("found", new.id, text, new.worker)
        elif new.state is InstanceState.RUNNING:
            self._ledger.happened("started", new.id, f"running as pid {new.pid}", new.worker)
        elif new.state is InstanceState.FETCHING:
            text = f"{new.worker} fetches the files it lacks"
            self._ledger.happened("fetching", new.id, text, new.worker)

    def _bury(self, instance: Instance, death: Death, *, was_seen: bool = False) -> Instance:
        if isinstance(death, SpawnFailed) and was_seen:
            death = Vanished(reason="it ran, and its worker has no record of how it ended")
        if isinstance(death, Vanished) and was_seen:
            death = Vanished(reason=death.reason)  # it did run: we were told so in its life
        cause, message = explain(death, instance.asked, instance.delivered)
        now = self._ledger.now
        dead = msgspec.structs.replace(
            move(instance, InstanceState.DEAD, now),
            death=death,
            cause=cause,
            message=message,
            ended_at=instance.ended_at if instance.ended_at is not None else now,
        )
        self._ledger.save(certify(dead))
        self._change(dead)
        self._ledger.happened("died", dead.id, message, dead.worker)
        return dead

    def _send_again(self, instance: Instance) -> None:
        if instance.desired is Desired.STOPPED:
            text = "stopped before its worker had started it"
            self._bury(instance, SpawnFailed(stage="cancelled", errno=ECANCELED, message=text))
            return
        if instance.state is InstanceState.UNKNOWN:
            self._change(move(instance, InstanceState.PENDING, self._ledger.now))
        self._ledger.send_to(instance.worker, Start(key=instance.key, launch=instance.launch))

    def _press(self, id: str) -> None:
        """It should be ended, and its worker may not have heard so."""
        instance = self._ledger.cluster.instances[id]
        if instance.is_live and instance.desired is Desired.STOPPED:
            self._ledger.send_to(instance.worker, end_message(instance, self._ledger.now))

    def _strange(self, worker: WorkerName, key: AttemptKey, what: str) -> None:
        """Said once per attempt: never a reason to end anything."""
        if key not in self._foreign and len(self._foreign) < FOREIGN_MAX:
            self._foreign[key] = None
            self._ledger.happened("foreign", worker, f"attempt {key!r} {what}: left alone", worker)

    def _change(self, instance: Instance) -> None:
        self._ledger.save(instance)
        self._orders.settle(instance)


def _with_facts(instance: Instance, report: Report) -> Instance:
    """An attempt has one pid and one beginning: the first word for each of these counts."""
    known = instance.timings
    timings = msgspec.structs.replace(
        known,
        received_at=known.received_at or report.received_at,
        fetched_at=known.fetched_at or report.fetched_at,
        forked_at=known.forked_at or report.forked_at,
        executed_at=known.executed_at or report.started_at,
    )
    return msgspec.structs.replace(
        instance,
        timings=timings,
        pid=instance.pid or report.pid,
        started_at=instance.started_at or report.started_at,
        ended_at=instance.ended_at or report.ended_at,
        delivered=report.delivered or instance.delivered,
        usage=report.usage or instance.usage,
        enforced=report.enforced or instance.enforced,
        evidence=report.evidence or instance.evidence,
    )

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
from corps.core.restart import Restarts, Verdict
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
    await_next,
    begin_attempt,
    move,
)
from corps.model.name import AttemptKey, WorkerName, split_attempt_key, split_instance_id
from corps.model.terms import Restart
from corps.wire.output import Note
from corps.wire.worker import Forget, Report, Start

ECANCELED = 125
BY_POLICY = "policy"  # the stage at which a worker's own policy refuses a launch
NEVER_EXECUTED = "never_executed"  # what an older copy of a journal says of what it missed
FOREIGN_MAX = 1_000  # attempts that are told of as foreign
NUMBER_MAX = 1_000_000_000
UNEXPLAINED = Vanished(reason="its worker reported no reason")
NOTES_MAX = 100
NOTED = frozenset({"log-truncated", "log-cut", "disk-low", "disk-ok", "drift"})


class Observer:
    """Applies reports to instances, and says what became of those a worker no longer has."""

    def __init__(self, ledger: Ledger, orders: Orders, restarts: Restarts) -> None:
        self._ledger, self._orders, self._restarts = ledger, orders, restarts
        self._foreign: dict[AttemptKey, None] = {}
        self._doubted: dict[AttemptKey, None] = {}  # whose deaths were told in two ways

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
            if instance.state is not InstanceState.UNKNOWN and not instance.is_waiting:
                self._change(move(instance, InstanceState.UNKNOWN, self._ledger.now))
                text = f"{worker} was lost: nobody knows whether it still runs"
                self._ledger.happened("unknown", instance.id, text, worker)

    def worker_heard(self, worker: WorkerName) -> None:
        """It is usable again, on the connection it had."""
        self._restarts.worker_ready(worker)

    def rejoined(
        self, worker: WorkerName, reports: Sequence[Report], doubt: Doubt | None
    ) -> Doubt | None:
        """The worker said everything it still has: settle each instance it should have.

        Not listed and never acknowledged, it was never started there, and is sent again. With a
        doubt it may have run. To miss what it had acknowledged is a doubt too; returns what holds.
        """
        listed = {report.key for report in reports}
        self.reported(worker, reports)
        live = [one for one in self._ledger.cluster.live_on(worker) if not one.is_waiting]
        missing = [instance for instance in live if instance.key not in listed]
        if doubt is None and any(instance.pid is not None for instance in missing):
            doubt = Doubt.SET_BACK
        for instance in live:
            if instance.key in listed:
                self._press(instance)
        for instance in missing:
            if doubt is None:
                self._send_again(instance)
            else:
                self._vanish(instance, doubt)
        self._restarts.worker_ready(worker)
        return doubt

    def noted(self, worker: WorkerName, notes: Sequence[Note]) -> None:
        """What a worker saw happen to its disk, or to what is its own."""
        for note in notes[:NOTES_MAX]:
            subject = worker
            if note.subject is not None:
                instance = self._ledger.cluster.instances.get(note.subject)
                if instance is None or instance.worker != worker:
                    continue
                subject = instance.id
            if note.kind in NOTED:
                self._ledger.happened(note.kind, subject, believe.text(note.message), worker)

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
        if instance is None:
            self._strange(worker, report.key, "is not known here")
            self._take_number(id)
            return False
        if instance.worker != worker:
            self._strange(worker, report.key, f"belongs to {instance.worker}")
            return False
        if attempt > instance.attempt:
            return self._is_ahead(instance, attempt, report)
        if attempt == instance.attempt and not instance.is_over:
            return self._apply(instance, report).is_over
        if not is_dead:
            self._strange(worker, report.key, "is reported alive after its death was recorded")
        else:
            self._hold_against(report)
        return is_dead

    def _is_ahead(self, instance: Instance, attempt: int, report: Report) -> bool:
        """A store that was set back: what began since is this attempt, and never begins again."""
        is_over = not instance.is_live or instance.desired is Desired.STOPPED
        if is_over or instance.restart is Restart.NEVER:
            self._strange(instance.worker, report.key, "is not known here")
            return False
        begun = begin_attempt(instance, attempt, self._ledger.now)
        text = f"{instance.worker} has attempt {attempt}, which is not recorded here"
        self._ledger.save(begun)
        self._ledger.happened("found", instance.id, text, instance.worker)
        return self._apply(begun, report).is_over

    def _hold_against(self, report: Report) -> None:
        """The first word on a death counts; another one is told of, once."""
        certificate = self._ledger.cluster.certificates.get(report.key)
        is_news = report.key not in self._doubted and len(self._doubted) < FOREIGN_MAX
        death = report.death or UNEXPLAINED
        if certificate is not None and is_news and not _agree(certificate.death, death):
            self._doubted[report.key] = None
            said = explain(death, certificate)[1]
            text = f"{report.key!r} is reported again, as {said}: the first report counts"
            self._ledger.happened("conflict", certificate.id, text, certificate.worker)

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
            death = report.death or UNEXPLAINED
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
            again = f" in attempt {new.attempt}" if new.attempt > 1 else ""
            text = f"running as pid {new.pid}{again}"
            self._ledger.happened("started", new.id, text, new.worker)
        elif new.state is InstanceState.FETCHING:
            text = f"{new.worker} verifies its files, and fetches those it lacks"
            self._ledger.happened("fetching", new.id, text, new.worker)

    def _bury(self, instance: Instance, death: Death, *, was_seen: bool = False) -> Instance:
        if isinstance(death, SpawnFailed) and death.stage == NEVER_EXECUTED and was_seen:
            text = "it ran, and its worker has no record of how it ended"
            death = Vanished(reason=text, may_still_run=True)
        if isinstance(death, Vanished) and was_seen:
            # It did run: we were told so in its life.
            death = msgspec.structs.replace(death, may_have_run=False)
        cause, message = explain(death, instance)
        now = self._ledger.now
        dead = msgspec.structs.replace(
            move(instance, InstanceState.DEAD, now),
            death=death,
            cause=cause,
            message=message,
            ended_at=instance.ended_at if instance.ended_at is not None else now,
        )
        self._ledger.save(certify(dead))
        verdict = self._restarts.judge(dead)
        after = dead
        if verdict.delay_s is not None:
            after = await_next(dead, verdict.failures, now + verdict.delay_s)
            self._restarts.waits(after)
        elif verdict.failures != dead.failures:
            after = msgspec.structs.replace(dead, failures=verdict.failures)
        self._change(after)
        self._ledger.happened("died", dead.id, message, dead.worker)
        if isinstance(death, SpawnFailed) and death.stage == BY_POLICY:
            self._ledger.witness_worker(dead.worker, "policy", dead.id, message)
        self._tell_next(dead, verdict)
        return after

    def _tell_next(self, dead: Instance, verdict: Verdict) -> None:
        if verdict.delay_s is not None:
            text = f"attempt {dead.attempt + 1} in {verdict.delay_s:.1f} s: {verdict.reason}"
            self._ledger.happened("restart", dead.id, text, dead.worker)
        elif dead.restart is not Restart.NEVER and dead.desired is Desired.RUNNING:
            text = f"no further attempt: {verdict.reason}"
            self._ledger.happened("restart", dead.id, text, dead.worker)

    def _send_again(self, instance: Instance) -> None:
        if instance.desired is Desired.STOPPED:
            text = "stopped before its worker had started it"
            self._bury(instance, SpawnFailed(stage="cancelled", errno=ECANCELED, message=text))
            return
        if instance.state is InstanceState.UNKNOWN:
            self._change(move(instance, InstanceState.PENDING, self._ledger.now))
        self._ledger.send_to(instance.worker, Start(key=instance.key, launch=instance.launch))

    def _press(self, instance: Instance) -> None:
        """It should be ended, and its worker may not have heard so."""
        if instance.desired is Desired.STOPPED:
            self._ledger.send_to(instance.worker, end_message(instance, self._ledger.now))

    def _vanish(self, instance: Instance, doubt: Doubt) -> None:
        death = Vanished(
            reason=reason(doubt, instance.worker),
            may_have_run=True,
            may_still_run=doubt is not Doubt.REBOOTED,
        )
        self._bury(instance, death, was_seen=instance.started_at is not None)

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
        fetched_bytes=instance.fetched_bytes or report.fetched_bytes,
        measured=report.measured or instance.measured,
    )


def _agree(recorded: Death, said: Death) -> bool:
    """They say the same of how it ended; words may differ."""
    match recorded, said:
        case SpawnFailed(), SpawnFailed():
            return (recorded.stage, recorded.errno) == (said.stage, said.errno)
        case Vanished(), Vanished() | SpawnFailed(stage="never_executed"):
            return True
        case _:
            return recorded == said

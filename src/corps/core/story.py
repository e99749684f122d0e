"""The chain of causes of one attempt, in sentences: placed, executed, signalled, died, and now.

Times of an attempt come from two clocks, the master's and the worker's: its own steps are told in
the order in which they must have been, what else happened is put between them by its time.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, assert_never

from corps.core.explain import asker, by_whom, errno_name, signal_name, verb_of
from corps.core.fault import SIGNALS, hint
from corps.core.records import Event
from corps.core.views import rfc3339, seen_after_s, uptime_s
from corps.model.certificate import Certificate
from corps.model.instance import (
    Asked,
    Cause,
    Delivered,
    Exited,
    Instance,
    InstanceState,
    Machine,
    RssSource,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.model.measure import duration, size
from corps.model.view import SentenceView
from corps.model.worker import Worker, WorkerState

TOLD = ("placed", "started", "fetching", "died", "stop", "kill", "signal")  # by records, not events
EVENTS_MAX = 40  # of one attempt, the last ones
LATE_S = 2.0  # evidence taken later than this is told as such
S = InstanceState


class Sentence(NamedTuple):
    """`at` None: it belongs to the one before."""

    at: float | None
    text: str


class Now(NamedTuple):
    """What is known at this moment beside the records."""

    at: float
    worker: Worker
    os_state: str | None = None


def tell(
    attempt: Instance | Certificate, earlier: Sequence[Certificate], events: Iterable[Event]
) -> list[Sentence]:
    """The chain of one attempt; the deaths before it in a line each."""
    mine = [event for event in events if event.at >= attempt.timings.placed_at]
    died = [event.kind == "died" and event.subject == attempt.id for event in mine]
    end = died.index(True) if any(died) else len(mine)
    chain = [Sentence(one.ended_at, _short(one)) for one in earlier]
    chain += _merged(_launch(attempt), _between(attempt, mine[:end]))
    if isinstance(attempt, Certificate):
        chain += _death(attempt)
    return chain + _told(attempt, mine[end:])


def tell_now(instance: Instance, now: Now) -> Sentence:
    """Where it is at this moment and what it waits for."""
    where = f"now: {instance.id} on {instance.worker}"
    worker = now.worker
    away = worker.state is not WorkerState.READY
    silent = (
        f"; {worker.name} is {worker.state} since {rfc3339(worker.state_since)}" if away else ""
    )
    match instance.state:
        case S.PENDING if instance.not_before is not None:
            due = f"attempt {instance.attempt + 1} begins at {rfc3339(instance.not_before)}"
            return Sentence(None, f"{where} is between two attempts: {due}{silent}")
        case S.PENDING:
            return Sentence(None, f"{where} waits for its worker to begin{silent}")
        case S.FETCHING:
            return Sentence(None, f"{where} waits for the files that are on their way{silent}")
        case S.STARTING:
            return Sentence(None, f"{where} is being started by its keeper{silent}")
        case S.RUNNING:
            ran = duration(max(0.0, now.at - (instance.started_at or instance.state_since)))
            state = f", {now.os_state}" if now.os_state else ""
            return Sentence(None, f"{where} runs as pid {instance.pid} for {ran}{state}{silent}")
        case S.STOPPING:
            return Sentence(None, f"{where}: {_ending(instance)}{silent}")
        case S.UNKNOWN:
            pid = f"pid {instance.pid}" if instance.pid else "it"
            return Sentence(
                None,
                f"{where} is unknown{silent}: nobody can say whether {pid} runs, it is started "
                f"nowhere else, and all is told when {worker.name} is back",
            )
        case S.DEAD:
            return Sentence(None, f"{where} is dead, and its log is kept there{silent}")
        case _:
            assert_never(instance.state)


def view_sentences(chain: Iterable[Sentence]) -> tuple[SentenceView, ...]:
    return tuple(SentenceView(at=rfc3339(one.at), text=one.text) for one in chain)


def _short(certificate: Certificate) -> str:
    ran = uptime_s(certificate)
    after = f" after {duration(ran)}" if ran is not None else ""
    return (
        f"attempt {certificate.attempt} on {certificate.worker} died{after}: {certificate.message}"
    )


# ---- until it ran


def _launch(attempt: Instance | Certificate) -> list[Sentence]:
    timings, worker = attempt.timings, attempt.worker
    because = f": {attempt.placement}" if attempt.placement else ""
    text = f"placed on {worker} by {attempt.by} (command {attempt.command}){because}"
    chain = [Sentence(timings.placed_at, text)]
    if timings.fetched_at is not None and attempt.fetched_bytes:
        took = duration(max(0.0, timings.fetched_at - (timings.received_at or timings.fetched_at)))
        text = f"{worker} fetched {size(attempt.fetched_bytes)} that it lacked in {took}"
        chain.append(Sentence(timings.fetched_at, text))
    elif timings.fetched_at is not None:
        chain.append(Sentence(timings.fetched_at, f"{worker} had all its files"))
    if timings.forked_at is not None and attempt.pid is not None:
        chain.append(Sentence(timings.forked_at, f"forked as pid {attempt.pid}"))
    if timings.executed_at is not None:
        chain.append(Sentence(timings.executed_at, f"executed {_argv(attempt)}"))
    if attempt.enforced:
        limits = ", ".join(f"{name} by {how}" for name, how in sorted(attempt.enforced.items()))
        chain.append(Sentence(None, f"limits in force: {limits}"))
    return chain


def _argv(attempt: Instance | Certificate) -> str:
    if attempt.evidence is not None and attempt.evidence.argv:
        return shlex.join(attempt.evidence.argv)
    return shlex.join((attempt.launch.artifact, *attempt.launch.args))


# ---- while it ran


def _between(attempt: Instance | Certificate, events: Sequence[Event]) -> list[Sentence]:
    """What was asked and delivered, and what became of its worker meanwhile."""
    chain = [Sentence(ask.at, _ask(ask)) for ask in attempt.asks]
    chain += [Sentence(sent.at, _delivery(sent, attempt)) for sent in attempt.delivered]
    return chain + _told(attempt, events)


def _told(attempt: Instance | Certificate, events: Sequence[Event]) -> list[Sentence]:
    told = [
        Sentence(event.at, text) for event in events if (text := _event(event, attempt)) is not None
    ]
    if len(told) > EVENTS_MAX:
        more = Sentence(told[-EVENTS_MAX].at, f"[{len(told) - EVENTS_MAX} earlier events left out]")
        told = [more, *told[-EVENTS_MAX:]]
    return told


def _ask(ask: Asked) -> str:
    grace = f", grace {ask.grace_s:g} s" if ask.cause is Cause.STOP else ""
    signal = f" {signal_name(ask.signal)}" if verb_of(ask) == "signal" else ""
    return f"{verb_of(ask)}{signal} asked by {ask.by} (command {ask.command}){grace}"


def _delivery(sent: Delivered, attempt: Instance | Certificate) -> str:
    asked = asker(sent, attempt)
    if asked is not None:
        return f"{signal_name(sent.signal)} delivered ({by_whom(asked)}, command {asked.command})"
    several = sorted({by_whom(ask) for ask in attempt.asks if ask.signal == sent.signal})
    return f"{signal_name(sent.signal)} delivered" + (
        f" (asked for by several: {', '.join(several)})" if several else ""
    )


def _event(event: Event, attempt: Instance | Certificate) -> str | None:
    if event.subject == attempt.id:
        return None if event.kind in TOLD else event.message
    _, is_worker, state = event.kind.partition("worker-")
    is_over = attempt.ended_at is not None and event.at > attempt.ended_at
    if event.subject != attempt.worker or not is_worker or is_over:
        return None
    return f"{event.subject} became {state}: {event.message}"


def _merged(steps: Sequence[Sentence], others: Iterable[Sentence]) -> list[Sentence]:
    times = accumulate((step.at or 0.0 for step in steps), max)
    numbered = [(at, 0, step) for at, step in zip(times, steps, strict=True)]
    numbered += [(other.at or 0.0, 1, other) for other in others]
    return [sentence for _, _, sentence in sorted(numbered, key=lambda one: one[:2])]


# ---- how it ended


def _death(certificate: Certificate) -> list[Sentence]:
    ran = uptime_s(certificate)
    text = certificate.message
    if not isinstance(certificate.death, SpawnFailed):
        text = f"died: {text}" if ran is None else f"died after {duration(ran)}: {text}"
    chain = [Sentence(certificate.ended_at, text)]
    more = [f"cause: {_cause(certificate)}", _meaning(certificate)]
    if certificate.usage is not None:
        more.append(_usage(certificate.usage))
    evidence = certificate.evidence
    if evidence is not None:
        if evidence.oom is not None:
            more.append(f"out of memory: {evidence.oom}")
        if evidence.limit is not None:
            more.append(f"limit: {evidence.limit}")
        more += _descendants(certificate)
        if evidence.last_lines:
            more.append("its last output:")
            more += [f"  {line.stream}| {line.text}" for line in evidence.last_lines]
        if evidence.machine is not None:
            more.append(_machine(evidence.machine, seen_after_s(certificate)))
    return chain + [Sentence(None, text) for text in more if text]


def _cause(certificate: Certificate) -> str:
    asked = certificate.asked
    command = f", command {asked.command}" if asked is not None else ""
    match certificate.cause:
        case Cause.SELF if isinstance(certificate.death, SpawnFailed):
            return "it could not be started"
        case Cause.SELF if isinstance(certificate.death, Exited):
            return "itself"
        case Cause.SELF:
            return "itself, or somebody on its machine: corps sent no such signal"
        case Cause.STOP | Cause.KILL if asked is not None:
            return f"{by_whom(asked)}{command}"
        case Cause.OOM:
            return "the OOM killer of its machine or cgroup"
        case Cause.LIMIT:
            return "a limit"
        case Cause.LOST:
            return "unknown: nobody saw it end"
        case _:
            return str(certificate.cause)


def _meaning(certificate: Certificate) -> str:
    """What the bare verdict means to a person; empty when the message says all."""
    death = certificate.death
    match death:
        case Exited():
            is_told = certificate.message.startswith(f"exited {death.code}:")
            words = None if is_told else hint(death.code)
            return f"hint: {words}" if words else ""
        case Signaled():
            words = SIGNALS.get(death.signal)
            return f"{signal_name(death.signal)}: {words}" if words else ""
        case SpawnFailed():
            return f"it failed at: {death.stage}" + (
                f" ({errno_name(death.errno)})" if death.errno else ""
            )
        case Vanished(may_have_run=True):
            return "it may have run: it was sent to its worker, which never said what came of it"
        case Vanished():
            return ""
        case _:
            assert_never(death)


def _usage(usage: Usage) -> str:
    text = (
        f"used {usage.cpu_user_s:.3f} s of CPU itself and {usage.cpu_system_s:.3f} s in the kernel"
    )
    if usage.max_rss_bytes is None:
        return text
    bound = " (an upper bound)" if usage.max_rss_source is RssSource.FLOOR else ""
    return f"{text}, at most {size(usage.max_rss_bytes)} resident{bound}"


def _descendants(certificate: Certificate) -> list[str]:
    evidence = certificate.evidence
    assert evidence is not None
    told = []
    if evidence.lingering:
        which = "1 descendant" if evidence.lingering == 1 else f"{evidence.lingering} descendants"
        told.append(f"{which} outlived it (--linger {certificate.launch.terms.linger})")
    told += [f"still there: pid {one.pid} ({one.command})" for one in evidence.survivors]
    return told


def _machine(machine: Machine, after_s: float) -> str:
    when = (
        "the machine then"
        if after_s < LATE_S
        else f"the machine's state was read {duration(after_s)} after the death"
    )
    available, total = size(machine.memory_available_bytes), size(machine.memory_total_bytes)
    text = f"{when}: load {machine.load_1m:g}, {available} of {total} memory available"
    pressures = {
        "cpu": machine.cpu_pressure_percent,
        "memory": machine.memory_pressure_percent,
        "io": machine.io_pressure_percent,
    }
    known = [f"{name} {value:g} %" for name, value in pressures.items() if value is not None]
    return f"{text}, pressure {' '.join(known)}" if known else text


def _ending(instance: Instance) -> str:
    asked = instance.asked
    if asked is None or asked.cause is not Cause.STOP:
        return "killed, its end is awaited"
    kill_at = rfc3339(asked.at + asked.grace_s)
    return f"stop by {asked.by}: waits for it to end, SIGKILL follows at {kill_at}"

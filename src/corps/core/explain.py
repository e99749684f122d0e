"""Why a death happened: the kernel's verdict, signals delivered and who asked, and evidence."""

from __future__ import annotations

import errno
import signal
from typing import assert_never

from corps.core.fault import fault
from corps.model.certificate import Certificate
from corps.model.instance import (
    Asked,
    Cause,
    Death,
    Delivered,
    Evidence,
    Exited,
    Instance,
    Signaled,
    SpawnFailed,
    Vanished,
)


def signal_name(number: int) -> str:
    """`SIGKILL`; a real-time signal by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def errno_name(number: int) -> str:
    """`ENOENT`, or the number."""
    return errno.errorcode.get(number, f"errno {number}")


def explain(death: Death, attempt: Instance | Certificate) -> tuple[Cause, str]:
    """Cause and sentence. Only a signal that was really delivered can make a death ours, and only
    evidence that names the process or its cgroup makes it the OOM killer's."""
    asked = attempt.asked
    match death:
        case Exited():
            return _exited(death, attempt)
        case Signaled():
            return _signaled(death, attempt)
        case SpawnFailed(stage="cancelled"):
            by = f" ({by_whom(asked)})" if asked else ""
            return (asked.cause if asked else Cause.STOP), f"cancelled before it started{by}"
        case SpawnFailed():
            return Cause.SELF, f"did not start: {death.message}"
        case Vanished():
            doubt = "; it may have run" if death.may_have_run else ""
            doubt += "; it may still run" if death.may_still_run else ""
            return Cause.LOST, f"unknown how it ended: {death.reason}{doubt}"
        case _:
            assert_never(death)


def by_whom(asked: Asked) -> str:
    """`stop by ann`, `signal by bob`."""
    return f"{verb_of(asked)} by {asked.by}"


def verb_of(asked: Asked) -> str:
    """The command it was asked with."""
    is_signal = asked.cause is Cause.KILL and asked.signal != signal.SIGKILL
    return "signal" if is_signal else str(asked.cause)


def asker(sent: Delivered, attempt: Instance | Certificate) -> Asked | None:
    """Who asked for a signal that was delivered; None when that cannot be told for certain.

    Each ask of a signal is delivered at most once and in order: where the numbers agree, one is of
    the other. SIGKILL that nobody asked for by name is the end of a grace.
    """
    asks = [ask for ask in attempt.asks if ask.signal == sent.signal]
    if not asks and sent.signal == signal.SIGKILL:
        asks = [ask for ask in attempt.asks if ask.cause is Cause.STOP][-1:]
    all_sent = [one for one in attempt.delivered if one.signal == sent.signal]
    if len(asks) == len(all_sent):
        return asks[all_sent.index(sent)]
    same = {(ask.by, ask.cause) for ask in asks}
    return asks[-1] if len(same) == 1 else None


def _exited(death: Exited, attempt: Instance | Certificate) -> tuple[Cause, str]:
    asked = attempt.asked
    why = fault(death.code, attempt.evidence, attempt.worker)
    text = f"exited {death.code}: {why}" if why else f"exited {death.code}"
    if asked is None or asked.cause is not Cause.STOP or not _has(attempt, asked.signal):
        return Cause.SELF, text
    return Cause.STOP, f"{text} ({by_whom(asked)})"


def _signaled(death: Signaled, attempt: Instance | Certificate) -> tuple[Cause, str]:
    asked, number = attempt.asked, death.signal
    core = ", core dumped" if death.core_dumped else ""
    text = f"killed by {signal_name(number)}{core}"
    if asked is not None and _has(attempt, number):
        if asked.cause is Cause.STOP and number == signal.SIGKILL:
            return (
                Cause.STOP,
                f"{text} ({by_whom(asked)}: the grace of {asked.grace_s:g} s was over)",
            )
        if number == asked.signal:
            return asked.cause, f"{text} ({by_whom(asked)})"
    found = _found(number, attempt)
    if found is not None:
        return found[0], f"{text} ({found[1]})"
    if _has(attempt, number):
        # Sent for somebody who asked before; only the last to ask decides.
        before = next((ask for ask in reversed(attempt.asks) if ask.signal == number), None)
        if before is not None:
            return before.cause, f"{text} ({by_whom(before)})"
        if asked is not None:
            return Cause.KILL, f"{text} (sent by corps before the {by_whom(asked)})"
        return Cause.SELF, text
    stranger = number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    return Cause.SELF, f"{text}{_stranger(attempt.evidence)}" if stranger else text


def _found(number: int, attempt: Instance | Certificate) -> tuple[Cause, str] | None:
    """What the evidence says of a signal that no operator sent."""
    evidence = attempt.evidence
    if evidence is None:
        return None
    if evidence.proves_oom and number == signal.SIGKILL and not _has(attempt, number):
        return Cause.OOM, "out of memory"
    if evidence.limit is not None and number in (signal.SIGKILL, signal.SIGXCPU):
        return Cause.LIMIT, evidence.limit
    return None


def _stranger(evidence: Evidence | None) -> str:
    doubt = evidence is not None and evidence.oom is not None
    return " (not sent by corps; perhaps out of memory)" if doubt else " (not sent by corps)"


def _has(attempt: Instance | Certificate, number: int) -> bool:
    return any(sent.signal == number for sent in attempt.delivered)

"""Why a death happened, from the kernel's verdict, the signals delivered and who had asked."""

from __future__ import annotations

import errno
import signal
from typing import assert_never

from corps.model.instance import (
    Asked,
    Cause,
    Death,
    Delivered,
    Exited,
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


def explain(
    death: Death, asked: Asked | None, delivered: tuple[Delivered, ...]
) -> tuple[Cause, str]:
    """Cause and sentence. Only a signal that was really delivered can make a death ours."""
    match death:
        case Exited():
            return _exited(death, asked, delivered)
        case Signaled():
            return _signaled(death, asked, delivered)
        case SpawnFailed(stage="cancelled"):
            by = f" ({_by(asked)})" if asked else ""
            return (asked.cause if asked else Cause.STOP), f"cancelled before it started{by}"
        case SpawnFailed():
            return Cause.SELF, f"did not start: {death.message}"
        case Vanished():
            doubt = "; it may have run" if death.may_have_run else ""
            doubt += "; it may still run" if death.may_still_run else ""
            return Cause.LOST, f"unknown how it ended: {death.reason}{doubt}"
        case _:
            assert_never(death)


def _by(asked: Asked) -> str:
    verb = "signal" if asked.cause is Cause.KILL and asked.signal != signal.SIGKILL else asked.cause
    return f"{verb} by {asked.by}"


def _exited(
    death: Exited, asked: Asked | None, delivered: tuple[Delivered, ...]
) -> tuple[Cause, str]:
    text = f"exited {death.code}"
    if asked is None or asked.cause is not Cause.STOP or not _has(delivered, asked.signal):
        return Cause.SELF, text
    return Cause.STOP, f"{text} ({_by(asked)})"


def _signaled(
    death: Signaled, asked: Asked | None, delivered: tuple[Delivered, ...]
) -> tuple[Cause, str]:
    core = ", core dumped" if death.core_dumped else ""
    text = f"killed by {signal_name(death.signal)}{core}"
    if asked is None or not _has(delivered, death.signal):
        stranger = death.signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        return Cause.SELF, f"{text} (not sent by corps)" if stranger else text
    if asked.cause is Cause.STOP and death.signal == signal.SIGKILL:
        return Cause.STOP, f"{text} ({_by(asked)}: the grace of {asked.grace_s:g} s was over)"
    if death.signal != asked.signal:
        # Sent for somebody who asked before; only the last to ask is kept.
        return Cause.KILL, f"{text} (sent by corps before the {_by(asked)})"
    return asked.cause, f"{text} ({_by(asked)})"


def _has(delivered: tuple[Delivered, ...], number: int) -> bool:
    return any(sent.signal == number for sent in delivered)

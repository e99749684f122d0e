"""Cause and message: the whole table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corps.core.explain import asker, errno_name, explain, signal_name
from corps.model.instance import (
    Asked,
    Cause,
    Death,
    Delivered,
    Evidence,
    Exited,
    LogLine,
    Signaled,
    SpawnFailed,
    Survivor,
    Vanished,
)
from corps.model.terms import Linger, Terms
from tests.support.build import NOW, an_instance, delivered

STOP = Asked(cause=Cause.STOP, signal=2, by="ann", command="c", at=NOW, grace_s=10.0)
KILL = Asked(cause=Cause.KILL, signal=9, by="bob", command="c", at=NOW)
USR1 = Asked(cause=Cause.KILL, signal=10, by="eve", command="c", at=NOW)
GONE = SpawnFailed(stage="cancelled", errno=125, message="x")
NO_FILE = SpawnFailed(stage="execve", errno=2, message="no such file")
STRANGER = "killed by SIGKILL (not sent by corps)"


@pytest.mark.parametrize(
    ("death", "asked", "signals", "cause", "message"),
    [
        # by itself
        (Exited(code=3), None, (), "self", "exited 3"),
        (Signaled(signal=11, core_dumped=True), None, (), "self", "killed by SIGSEGV, core dumped"),
        (Signaled(signal=9), None, (), "self", STRANGER),
        (Signaled(signal=15), None, (), "self", "killed by SIGTERM (not sent by corps)"),
        # stopped
        (Exited(code=0), STOP, (2,), "stop", "exited 0 (stop by ann)"),
        (Signaled(signal=2), STOP, (2,), "stop", "killed by SIGINT (stop by ann)"),
        (
            Signaled(signal=9),
            STOP,
            (2, 9),
            "stop",
            "killed by SIGKILL (stop by ann: the grace of 10 s was over)",
        ),
        # asked for, and it was not that which ended it
        (Exited(code=0), STOP, (), "self", "exited 0"),
        (Exited(code=0), STOP, (10,), "self", "exited 0"),
        (Signaled(signal=9), STOP, (2,), "self", STRANGER),
        (Signaled(signal=11), STOP, (2,), "self", "killed by SIGSEGV"),
        (Exited(code=0), KILL, (9,), "self", "exited 0"),
        (Signaled(signal=9), KILL, (), "self", STRANGER),
        # killed
        (Signaled(signal=9), KILL, (9,), "kill", "killed by SIGKILL (kill by bob)"),
        (
            Signaled(signal=2),
            KILL,
            (2, 9),
            "kill",
            "killed by SIGINT (sent by corps before the kill by bob)",
        ),
        # signalled
        (Signaled(signal=10), USR1, (10,), "kill", "killed by SIGUSR1 (signal by eve)"),
        (Exited(code=1), USR1, (10,), "self", "exited 1"),
        (Signaled(signal=34), None, (), "self", "killed by SIGRTMIN"),
        (Signaled(signal=35), None, (), "self", "killed by signal 35"),
        # never ran
        (NO_FILE, None, (), "self", "did not start: no such file"),
        (NO_FILE, STOP, (), "self", "did not start: no such file"),
        (GONE, STOP, (), "stop", "cancelled before it started (stop by ann)"),
        (GONE, KILL, (), "kill", "cancelled before it started (kill by bob)"),
        (GONE, None, (), "stop", "cancelled before it started"),
        # nobody saw
        (Vanished(reason="reboot"), STOP, (2,), "lost", "unknown how it ended: reboot"),
        (
            Vanished(reason="reboot", may_have_run=True),
            None,
            (),
            "lost",
            "unknown how it ended: reboot; it may have run",
        ),
        (
            Vanished(reason="no record", may_still_run=True),
            None,
            (),
            "lost",
            "unknown how it ended: no record; it may still run",
        ),
    ],
)
def test_only_a_signal_that_was_delivered_makes_a_death_ours(
    death: Death, asked: Asked | None, signals: tuple[int, ...], cause: str, message: str
) -> None:
    instance = an_instance(asked=asked, delivered=delivered(*signals))
    assert explain(death, instance) == (cause, message)


def test_signals_and_errors_have_names() -> None:
    assert (signal_name(9), signal_name(63)) == ("SIGKILL", "signal 63")
    assert (errno_name(2), errno_name(9_999)) == ("ENOENT", "errno 9999")


LOST_LIBRARY = LogLine(
    stream="stderr",
    text="x: error while loading shared libraries: libx.so: cannot open shared object file: "
    "No such file or directory",
)


@pytest.mark.parametrize(
    ("death", "facts", "evidence", "cause", "message"),
    [
        (Signaled(signal=9), {}, {"oom": "pid 100", "proves_oom": True}, "oom", "out of memory"),
        (Signaled(signal=9), {}, {"oom": "struck"}, "self", "perhaps out of memory"),
        (Signaled(signal=15), {}, {"oom": "pid 100", "proves_oom": True}, "self", "not sent by"),
        (
            Signaled(signal=9),
            {"asked": KILL, "delivered": delivered(9)},
            {"oom": "pid 100", "proves_oom": True},
            "kill",
            "(kill by bob)",
        ),
        (Signaled(signal=9), {}, {"limit": "its deadline"}, "limit", "(its deadline)"),
        (Signaled(signal=24), {}, {"limit": "cpu"}, "limit", "killed by SIGXCPU (cpu)"),
        (Signaled(signal=11), {}, {"limit": "cpu"}, "self", "killed by SIGSEGV"),
        # the watchdog's own SIGKILL is delivered by corps, and nobody asked for it
        (
            Signaled(signal=9),
            {"delivered": delivered(9)},
            {"limit": "memory"},
            "limit",
            "killed by SIGKILL (memory)",
        ),
        (
            Signaled(signal=9),
            {"asked": USR1, "delivered": delivered(10, 9)},
            {"limit": "memory"},
            "limit",
            "killed by SIGKILL (memory)",
        ),
        (
            Exited(code=127),
            {},
            {"last_lines": (LOST_LIBRARY,)},
            "self",
            "exited 127: library libx.so is missing on w1",
        ),
        (
            Exited(code=127),
            {"asked": STOP, "delivered": delivered(2)},
            {"last_lines": (LOST_LIBRARY,)},
            "stop",
            "(stop by ann)",
        ),
    ],
)
def test_evidence_names_what_no_operator_did(
    death: Death, facts: dict[str, Any], evidence: dict[str, Any], cause: str, message: str
) -> None:
    instance = an_instance(evidence=Evidence(seen_at=NOW, **evidence), **facts)
    found, text = explain(death, instance)
    assert found == cause and message in text


def test_a_signal_of_somebody_who_asked_before_is_named() -> None:
    asks = (STOP, USR1, KILL)
    instance = an_instance(asked=KILL, asks=asks, delivered=delivered(2, 10, 9))
    assert explain(Signaled(signal=10), instance) == (
        Cause.KILL,
        "killed by SIGUSR1 (signal by eve)",
    )
    assert explain(Signaled(signal=2), instance) == (Cause.STOP, "killed by SIGINT (stop by ann)")


def test_each_delivered_signal_has_who_asked_for_it() -> None:
    again = msgspec.structs.replace(USR1, by="dan")
    one, two = Delivered(signal=10, at=NOW), Delivered(signal=10, at=NOW + 1)
    both = an_instance(asks=(USR1, again), delivered=(one, two))
    assert (asker(one, both), asker(two, both)) == (USR1, again)
    # one of two was delivered: it cannot be told whose
    assert asker(two, an_instance(asks=(USR1, again), delivered=(two,))) is None
    assert asker(two, an_instance(asks=(USR1, USR1), delivered=(two,))) == USR1
    # SIGKILL by nobody's name is the end of a grace; another signal nobody asked for is nobody's
    killed = Delivered(signal=9, at=NOW)
    assert asker(killed, an_instance(asks=(USR1, STOP), delivered=(killed,))) == STOP
    assert asker(killed, an_instance(asks=(), delivered=(killed,))) is None
    assert asker(one, an_instance(asks=(STOP,), delivered=(one,))) is None


def test_who_is_left_is_part_of_the_sentence() -> None:
    one = Survivor(pid=4711, command="dd (in disk sleep)")
    killed = msgspec.structs.replace(
        an_instance(),
        asked=KILL,
        delivered=delivered(9),
        evidence=Evidence(seen_at=NOW, survivors=(one,)),
    )
    assert explain(Signaled(signal=9), killed) == (
        Cause.KILL,
        "killed by SIGKILL (kill by bob); 1 process survived: 4711 dd (in disk sleep)",
    )
    many = tuple(Survivor(pid=pid, command="sh") for pid in range(5))
    launch = msgspec.structs.replace(killed.launch, terms=Terms(linger=Linger.KEEP))
    kept = msgspec.structs.replace(
        killed, asked=None, launch=launch, evidence=Evidence(seen_at=NOW, survivors=many)
    )
    assert explain(Exited(code=0), kept)[1] == (
        "exited 0; 5 processes left running: 0 sh, 1 sh, 2 sh and 2 more"
    )

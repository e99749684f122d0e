"""The chain of sentences, as an operator reads it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corps.core.explain import explain
from corps.core.records import Event
from corps.core.story import EVENTS_MAX, Now, Sentence, tell, tell_now, view_sentences
from corps.model.certificate import Certificate, certify
from corps.model.instance import (
    Asked,
    Cause,
    Death,
    Delivered,
    Evidence,
    Exited,
    Instance,
    InstanceState,
    Launchable,
    LogLine,
    Machine,
    RssSource,
    Signaled,
    SpawnFailed,
    Survivor,
    Timings,
    Usage,
    Vanished,
)
from corps.model.terms import Linger, Terms
from corps.model.worker import WorkerState
from tests.support.build import DIGEST, NOW, a_dead_instance, a_worker, an_instance

TIMES = Timings(
    placed_at=NOW,
    received_at=NOW + 0.1,
    fetched_at=NOW + 0.6,
    forked_at=NOW + 0.7,
    executed_at=NOW + 0.8,
)
STOP = Asked(cause=Cause.STOP, signal=2, by="ann", command="c-2", at=NOW + 2, grace_s=1.0)
HUP = Asked(cause=Cause.KILL, signal=1, by="bob", command="c-1", at=NOW + 1)
MACHINE = Machine(
    load_1m=1.5,
    memory_total_bytes=4 << 30,
    memory_available_bytes=1 << 30,
    cpu_pressure_percent=12.5,
    memory_pressure_percent=0.0,
)


def a_death(death: Death, **facts: Any) -> Certificate:
    facts = {"timings": TIMES, "started_at": NOW + 0.8, "command": "c-0", **facts}
    instance = a_dead_instance("web.1", death, **facts)
    cause, message = explain(death, instance)
    return certify(
        msgspec.structs.replace(instance, cause=cause, message=message, ended_at=NOW + 3)
    )


def texts(chain: list[Sentence]) -> list[str]:
    return [one.text for one in chain]


def an_event(at: float, kind: str, message: str, subject: str = "web.1") -> Event:
    return Event(seq=1, at=at, kind=kind, subject=subject, message=message, worker="w1")


def test_a_stop_is_told_from_its_placement_to_its_last_line() -> None:
    evidence = Evidence(
        seen_at=NOW + 3,
        argv=("/t/web", "a b"),
        last_lines=(LogLine(stream="stdout", text="bye"),),
        machine=MACHINE,
        lingering=2,
        survivors=(Survivor(pid=9, command="sleep 9"),),
    )
    certificate = a_death(
        Signaled(signal=9),
        launch=Launchable(artifact="web", digest=DIGEST, terms=Terms(linger=Linger.KEEP)),
        placement="the only usable worker",
        fetched_bytes=2 << 20,
        enforced={"memory": "cgroup v2", "nofile": "rlimit"},
        asked=STOP,
        asks=(HUP, STOP),
        delivered=tuple(Delivered(signal=s, at=NOW + a) for s, a in ((1, 1.1), (2, 2.1), (9, 3))),
        usage=Usage(
            cpu_user_s=1.0, cpu_system_s=0.5, max_rss_bytes=1 << 20, max_rss_source=RssSource.FLOOR
        ),
        evidence=evidence,
    )
    chain = tell(certificate, (), [an_event(NOW + 1.5, "worker-suspect", "one beat", "w1")])
    assert [(at and round(at - NOW, 1), text) for at, text in chain] == [
        (0.0, "placed on w1 by root (command c-0): the only usable worker"),
        (0.6, "w1 fetched 2.0 MiB that it lacked in 0.500 s"),
        (0.7, "forked as pid 100"),
        (0.8, "executed /t/web 'a b'"),
        (None, "limits in force: memory by cgroup v2, nofile by rlimit"),
        (1.0, "signal SIGHUP asked by bob (command c-1)"),
        (1.1, "SIGHUP delivered (signal by bob, command c-1)"),
        (1.5, "w1 became suspect: one beat"),
        (2.0, "stop asked by ann (command c-2), grace 1 s"),
        (2.1, "SIGINT delivered (stop by ann, command c-2)"),
        (3.0, "SIGKILL delivered (stop by ann, command c-2)"),
        (
            3.0,
            "died after 2.200 s: killed by SIGKILL (stop by ann: the grace of 1 s was over)",
        ),
        (None, "cause: stop by ann, command c-2"),
        (
            None,
            "used 1.000 s of CPU itself and 0.500 s in the kernel, at most 1.0 MiB resident "
            "(an upper bound)",
        ),
        (None, "2 descendants outlived it (--linger keep)"),
        (None, "still there: pid 9 (sleep 9)"),
        (None, "its last output:"),
        (None, "  stdout| bye"),
        (
            None,
            "the machine then: load 1.5, 1.0 GiB of 4.0 GiB memory available, "
            "pressure cpu 12.5 % memory 0 %",
        ),
    ]
    assert view_sentences(chain)[0].at == "2025-06-15T15:06:40.000Z"


@pytest.mark.parametrize(
    ("death", "evidence", "expected"),
    [
        (Exited(code=3), {}, ["died after 2.200 s: exited 3", "cause: itself"]),
        (
            Exited(code=137),
            {},
            [
                "died after 2.200 s: exited 137",
                "cause: itself",
                "hint: by the convention of shells: a child of it was killed by SIGKILL",
            ],
        ),
        (
            Signaled(signal=11, core_dumped=True),
            {},
            [
                "died after 2.200 s: killed by SIGSEGV, core dumped",
                "cause: itself, or somebody on its machine: corps sent no such signal",
                "SIGSEGV: it used memory that is not its own",
            ],
        ),
        (
            Signaled(signal=9),
            {"oom": "Killed process 100 (web)", "proves_oom": True},
            [
                "died after 2.200 s: killed by SIGKILL (out of memory)",
                "cause: the OOM killer of its machine or cgroup",
                "out of memory: Killed process 100 (web)",
            ],
        ),
        (
            Signaled(signal=9),
            {"limit": "its keeper ended it"},
            [
                "died after 2.200 s: killed by SIGKILL (its keeper ended it)",
                "cause: a limit",
                "limit: its keeper ended it",
            ],
        ),
        (
            Vanished(reason="reboot", may_have_run=True),
            {},
            [
                "died after 2.200 s: unknown how it ended: reboot; it may have run",
                "cause: unknown: nobody saw it end",
                "it may have run: it was sent to its worker, which never said what came of it",
            ],
        ),
        (
            Vanished(reason="keeper lost"),
            {},
            [
                "died after 2.200 s: unknown how it ended: keeper lost",
                "cause: unknown: nobody saw it end",
            ],
        ),
    ],
)
def test_each_kind_of_death_has_its_words(
    death: Death, evidence: dict[str, Any], expected: list[str]
) -> None:
    certificate = a_death(death, evidence=Evidence(seen_at=NOW + 3, **evidence))
    assert texts(tell(certificate, (), ()))[4:] == expected


def test_what_never_ran_is_told_with_its_stage() -> None:
    death = SpawnFailed(stage="execve", errno=2, message="the file is missing")
    certificate = a_death(death, pid=None, started_at=None, timings=Timings(placed_at=NOW))
    assert texts(tell(certificate, (), ())) == [
        "placed on w1 by root (command c-0)",
        "did not start: the file is missing",
        "cause: it could not be started",
        "it failed at: execve (ENOENT)",
    ]


def test_evidence_that_came_late_says_so() -> None:
    late = a_death(Exited(code=0), evidence=Evidence(seen_at=NOW + 45, machine=MACHINE))
    last = texts(tell(late, (), ()))[-1]
    assert last.startswith("the machine's state was read 42.0 s after the death: load 1.5")


def test_earlier_attempts_are_told_in_a_line_and_clocks_may_differ() -> None:
    first = a_death(Exited(code=1))
    again = msgspec.structs.replace(TIMES, placed_at=NOW + 5, executed_at=NOW + 5.5)
    instance = an_instance(attempt=2, timings=again, command="c-0")
    chain = tell(instance, [first], [an_event(NOW + 5.2, "restarted", "after 1 s")])
    assert texts(chain) == [
        "attempt 1 on w1 died after 2.200 s: exited 1",
        "placed on w1 by root (command c-0)",
        "w1 had all its files",  # by a clock that is slow, and in its place all the same
        "forked as pid 100",
        "after 1 s",
        "executed web",
    ]


def test_what_follows_a_death_is_told_after_it() -> None:
    certificate = a_death(Exited(code=1))
    events = [
        an_event(NOW + 2, "worker-suspect", "one beat", "w1"),
        an_event(NOW + 3.1, "died", "exited 1"),
        an_event(NOW + 3.1, "restart", "attempt 2 in 1.0 s: always"),
        an_event(NOW + 4.0, "worker-lost", "two beats", "w1"),
        an_event(NOW + 5.0, "conflict", "reported again"),
    ]
    chain = texts(tell(certificate, (), events))
    assert chain[4:] == [
        "w1 became suspect: one beat",
        "died after 2.200 s: exited 1",
        "cause: itself",
        "attempt 2 in 1.0 s: always",
        "reported again",
    ]


def test_a_signal_of_which_it_is_not_known_who_sent_it_names_all() -> None:
    again = msgspec.structs.replace(HUP, by="dan")
    instance = an_instance(asks=(HUP, again), delivered=(Delivered(signal=1, at=NOW + 2),))
    chain = texts(tell(instance, (), ()))
    assert chain[-1] == "SIGHUP delivered (asked for by several: signal by bob, signal by dan)"


def test_of_many_events_the_last_are_told() -> None:
    events = [an_event(NOW + n, "worker-suspect", f"beat {n}", "w1") for n in range(100)]
    chain = texts(tell(an_instance(), (), events))
    assert f"[{100 - EVENTS_MAX} earlier events left out]" in chain
    assert len(chain) == EVENTS_MAX + 2 and chain[-1] == "w1 became suspect: beat 99"


@pytest.mark.parametrize(
    ("state", "facts", "words"),
    [
        (InstanceState.PENDING, {}, "waits for its worker to begin"),
        (InstanceState.PENDING, {"not_before": NOW}, "attempt 2 begins at 2025-06-15T15:06:40.0"),
        (InstanceState.FETCHING, {}, "waits for the files that are on their way"),
        (InstanceState.STARTING, {}, "is being started by its keeper"),
        (InstanceState.RUNNING, {}, "runs as pid 100 for 1m40s, sleeping"),
        (InstanceState.STOPPING, {"asked": STOP}, "SIGKILL follows at 2025-06-15T15:06:43.000Z"),
        (InstanceState.STOPPING, {"asked": HUP}, "killed, its end is awaited"),
        (InstanceState.UNKNOWN, {}, "nobody can say whether pid 100 runs"),
        (InstanceState.UNKNOWN, {"pid": None}, "nobody can say whether it runs"),
        (InstanceState.DEAD, {}, "is dead, and its log is kept there"),
    ],
)
def test_where_it_is_now_and_what_it_waits_for(
    state: InstanceState, facts: dict[str, Any], words: str
) -> None:
    instance: Instance = an_instance(state=state, **facts)
    text = tell_now(instance, Now(NOW + 100, a_worker(), "sleeping")).text
    assert text.startswith("now: web.1 on w1") and words in text
    lost = a_worker(state=WorkerState.LOST, state_since=NOW)
    text = tell_now(instance, Now(NOW + 100, lost)).text
    assert "w1 is lost since 2025-06-15T15:06:40.000Z" in text

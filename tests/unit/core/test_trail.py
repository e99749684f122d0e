"""What goes into the audit trail, what never does, and that it has an end."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from corps.core import events as ev
from corps.core.chain import LEAF, LEAVES_KEPT
from corps.core.deeds import asked
from corps.core.proof import Proof
from corps.core.throttle import OF_ALL_MAX, OF_ONE_MAX, WINDOW_S
from corps.model.command import (
    AnyCommand,
    Copy,
    Delete,
    Kill,
    Launch,
    Remove,
    Sign,
    Signal,
    Stop,
    Tag,
)
from corps.model.instance import InstanceState, SpawnFailed
from corps.model.secret import Clear, DeleteSecret, SetSecret
from corps.model.signature import Signature, Vouched
from corps.model.trail import Deed, Outcome, TrailEntry, TrailHead, TrailMark, line_of, parse_line
from corps.model.trust import (
    CreateToken,
    CreateUserToken,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    Role,
    RotateCa,
    SetUser,
)
from corps.wire import worker as wire
from tests.support.build import DIGEST, AMaster, a_report

SECRET = "5ec4e7" * 10 + "0000"
ID = "abcdefgh"
COMMANDS: list[AnyCommand] = [
    Copy(name="web", digest=DIGEST, tag="v1"),
    Delete(artifact="web"),
    Launch(artifact="web", args=("--port", "80"), env={"PASSWORD": SECRET}, on="w1"),
    Stop(targets=("web.1",)),
    Kill(targets=("web.1",)),
    Signal(targets=("web.1",), signal=1),
    Remove(targets=("web.1",)),
    Sign(
        signature=Signature(
            vouched=Vouched(name="web", digest=DIGEST, counter=1), key="ed25519:k", value=b"v"
        )
    ),
    Tag(artifact="web", tag="v1"),
    CreateToken(id=ID, secret_hash=SECRET),
    CreateUserToken(id=ID, user="ann", secret_hash=SECRET),
    RevokeToken(id=ID),
    RevokeWorker(worker="w1"),
    RotateCa(),
    SetUser(name="ann", role=Role.ADMIN),
    RemoveUser(name="ann"),
    SetSecret(name="db", content=Clear(value=SECRET.encode())),
    DeleteSecret(name="db"),
]
DENIED = Deed(who="ann", act="kill", outcome=Outcome.DENIED, source="10.0.0.7", subject="web.1")


def trail(effects: list[ev.MasterEffect]) -> list[TrailEntry]:
    return [
        effect.record
        for effect in effects
        if isinstance(effect, ev.Save) and isinstance(effect.record, TrailEntry)
    ]


def told(effects: list[ev.MasterEffect]) -> list[tuple[str, str, str]]:
    return [(e.deed.act, e.deed.subject, e.deed.outcome) for e in trail(effects)]


def proven(master: AMaster) -> bool:
    """All that it ever wrote, against its head."""
    proof = Proof()
    for entry in trail(master.said):
        proof.take(line_of(entry).decode())
    return proof.finish(master.core.cluster.chain.head).fault is None


def test_the_samples_are_all_there_is() -> None:
    assert {type(command) for command in COMMANDS} == set(get_args(AnyCommand))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_command_is_told_without_what_is_secret(command: AnyCommand) -> None:
    deed = asked(ev.Commanded("id-1", "", command, "ann", None, "10.0.0.7"), command)
    assert (deed.who, deed.source, deed.command) == ("ann", "10.0.0.7", "id-1")
    assert deed.act == type(command).__name__.lower()
    assert deed.subject
    assert SECRET not in repr(deed)


def test_a_command_and_its_result_are_written_before_what_they_do() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    effects = master.order(Launch(artifact="web", env={"PASSWORD": SECRET}))
    assert told(effects) == [("launch", "web", "accepted")]
    written = [i for i, one in enumerate(effects) if isinstance(one, ev.Save)]
    done = [i for i, one in enumerate(effects) if isinstance(one, ev.Send)]
    assert max(written) < min(done)
    (entry,) = trail(effects)
    assert "PASSWORD" in entry.deed.detail
    assert SECRET not in line_of(entry).decode()
    effects = master.hear(session, wire.Changed(reports=(a_report(),)))
    assert told(effects) == [("launch", "web", "done")]
    assert trail(effects)[0].deed.detail == "web.1 running on w1"
    assert proven(master)


def test_what_is_done_at_once_is_one_entry_and_what_is_refused_as_well() -> None:
    master = AMaster()
    effects = master.order(SetUser(name="ann", role=Role.ADMIN))
    assert told(effects) == [("setuser", "ann", "done")]
    assert trail(effects)[0].deed.detail == "role admin"
    effects = master.order(Kill(targets=("web.9",)))
    assert told(effects) == [("kill", "web.9", "refused")]
    assert "no app or instance" in trail(effects)[0].deed.detail
    assert isinstance(effects[-1], ev.Reply)


def test_the_same_command_again_is_no_second_deed() -> None:
    master = AMaster()
    command = SetUser(name="ann", role=Role.ADMIN)
    master.order(command, id="order-1")
    assert told(master.order(command, id="order-1")) == []
    other = master.order(SetUser(name="bob", role=Role.ADMIN), id="order-1")
    assert told(other) == [("setuser", "bob", "refused")]


def test_a_newline_makes_no_second_line() -> None:
    """B058: nobody writes entries by choosing a name."""
    forged = 'ann\n{"seq":99,"deed":{"who":"bob"}}\r\x1b[2J\u2028'
    master = AMaster()
    (entry,) = trail(master.step(ev.Witnessed(Deed(who=forged, act="x", outcome=Outcome.DONE))))
    line = line_of(entry)
    assert not [byte for byte in line if byte < 0x20]
    assert parse_line(line.decode()) == entry
    assert entry.deed.who == forged


def test_texts_have_an_end_and_only_what_a_file_can_hold() -> None:
    master = AMaster()
    deed = Deed(
        who="a" * 10_000, act="x", outcome=Outcome.DONE, detail="b" * 10_000, subject="\udc80"
    )
    (entry,) = trail(master.step(ev.Witnessed(deed)))
    assert len(line_of(entry)) < 2_000
    assert entry.deed.subject == "\\udc80"


def test_who_knocks_without_end_fills_no_trail() -> None:
    master = AMaster()
    for _ in range(10 * OF_ONE_MAX):
        master.step(ev.Witnessed(DENIED))
    assert len(trail(master.said)) == 1 + OF_ONE_MAX
    effects = master.wait(WINDOW_S + 1)
    (entry,) = trail(effects)
    assert entry.deed.source == "10.0.0.7"
    assert entry.deed.detail.startswith(f"{9 * OF_ONE_MAX} more denials")
    assert told(master.step(ev.Witnessed(DENIED))) == [("kill", "web.1", "denied")]


def test_many_who_knock_fill_no_trail_either() -> None:
    master = AMaster()
    for number in range(20_000):
        deed = msgspec.structs.replace(DENIED, source=f"10.0.{number}")
        master.step(ev.Witnessed(deed))
    assert len(trail(master.said)) == 1 + OF_ALL_MAX
    left_out = [entry.deed.detail for entry in trail(master.wait(WINDOW_S + 1))]
    assert sum(int(text.partition(" ")[0]) for text in left_out) == 20_000 - OF_ALL_MAX


def test_who_asks_for_what_is_refused_pushes_nothing_out_of_the_trail() -> None:
    """Whoever may stop one app could else have everything forgotten, within minutes."""
    master = AMaster()
    for number in range(10 * OF_ONE_MAX):
        kill, source = Kill(targets=("web.9",)), f"uid 1000, pid {number}"
        master.step(ev.Commanded(f"order-{number}", "", kill, "ann", None, source))
    assert len(trail(master.said)) == 1 + OF_ONE_MAX
    (entry,) = trail(master.wait(WINDOW_S + 1))
    assert entry.deed.source == "uid 1000"
    assert entry.deed.detail.startswith(f"{9 * OF_ONE_MAX} more")


def test_what_was_allowed_is_always_written() -> None:
    master = AMaster()
    for _ in range(10 * OF_ONE_MAX):
        master.step(ev.Witnessed(msgspec.structs.replace(DENIED, outcome=Outcome.DONE)))
    assert len(trail(master.said)) == 1 + 10 * OF_ONE_MAX


def test_a_machine_that_refuses_by_its_policy_is_heard() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    death = SpawnFailed(stage="policy", errno=1, message="user root is not allowed")
    report = a_report(instance.key, InstanceState.DEAD, death=death, ended_at=master.now)
    effects = master.hear(session, wire.Changed(reports=(report,)))
    assert ("policy", "web.1", "denied") in told(effects)


def test_what_a_worker_says_of_another_ones_instances_is_heard() -> None:
    master = AMaster()
    master.join("w1")
    stranger = master.join("w2")
    (instance,) = master.launch(on="w1")
    effects = master.hear(stranger, wire.Changed(reports=(a_report(instance.key),)))
    (entry,) = trail(effects)
    deed = entry.deed
    assert (deed.who, deed.act, deed.outcome, deed.source) == (
        "w2",
        "foreign",
        "denied",
        master.worker("w2").address,
    )
    assert instance.key in deed.detail


def test_a_master_goes_on_where_the_last_one_ended() -> None:
    master = AMaster()
    master.order(SetUser(name="ann", role=Role.ADMIN))
    master.restart()
    assert told(master.said) == [
        ("start", "c-1", "done"),
        ("setuser", "ann", "done"),
        ("start", "c-1", "done"),
    ]
    assert proven(master)


def test_of_too_many_entries_the_oldest_go_and_the_rest_still_holds() -> None:
    master = AMaster()
    while master.core.cluster.chain.head.seq < (LEAVES_KEPT + 1) * LEAF:
        effects = master.step(ev.Witnessed(msgspec.structs.replace(DENIED, outcome=Outcome.DONE)))
    (dropped,) = [effect.record for effect in effects if isinstance(effect, ev.Drop)]
    assert isinstance(dropped, TrailMark)
    assert dropped.seq == LEAF
    (cut,) = [entry for entry in trail(master.said) if entry.cut is not None]
    assert cut.cut == dropped
    proof = Proof()
    for entry in trail(master.said)[LEAF:]:
        proof.take(line_of(entry).decode())
    head = master.core.cluster.chain.head
    assert proof.finish(head).fault is None
    assert head == TrailHead(seq=(LEAVES_KEPT + 1) * LEAF + 1, hash=head.hash)

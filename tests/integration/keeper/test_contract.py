"""The keeper imports no struct: what it says and understands is held against them here."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from corps.keeper.main import SHAPES
from corps.wire import keeper as wire
from corps.wire.worker import Totals
from tests.integration.keeper.driver import Keeper, frame
from tests.support.frozen import Frozen

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]


def test_the_keeper_knows_each_field_of_each_request() -> None:
    expected = {}
    for struct in get_args(wire.ToKeeper):
        info = msgspec.inspect.type_info(struct)
        assert isinstance(info, msgspec.inspect.StructType)
        expected[info.tag] = {one.encode_name: _json_kind(one.type) for one in info.fields}
    assert expected == SHAPES


def test_each_message_is_what_the_contract_says_and_says_all_of_it(
    start: Start, order: Order, built: Built, hung: str, frozen: Frozen
) -> None:
    said: list[dict[str, Any]] = []
    old = start()
    old.link.run(order("app.1#1", "/bin/true", note="n"))
    old.link.run(order("app.2#1", "/nowhere"))
    old.link.spawn(order("app.3#1", built("wait")))
    old.link.signal("app.3#1", signal.SIGCONT)
    old.link.listing()
    old.link.send(wire.Clear(directory="/nowhere"))
    assert old.link.wait(wire.Cleared).errno == errno.EPERM
    old.link.send(wire.Quit(), order("app.4#1", "/bin/true", argv=()))
    old.link.wait(wire.Refused, "app.4#1")
    said += [msgspec.json.decode(raw) for raw in old.link.raw]
    old.kill()
    new = start("--lost-status")
    new.link.signal("app.3#1", signal.SIGKILL)
    assert new.link.ended("app.3#1").lost
    assert new.link.signal("app.3#1", signal.SIGKILL) == errno.ESRCH
    said += [msgspec.json.decode(raw) for raw in new.link.raw]
    said += _whole_trees(start, order, built, frozen)
    late = start("--launch-s=0.2", at="late")
    assert late.link.run(order("app.5#1", hung)).deadline_s == 0.2
    said += [msgspec.json.decode(raw) for raw in late.link.raw]
    for struct in get_args(wire.FromKeeper):
        tag = struct.__struct_config__.tag
        _compare(struct, [message for message in said if message["type"] == tag], {"type"})
    attempts = [one for message in said for one in message.get("attempts", [])]
    attempts += [message["attempt"] for message in said if "attempt" in message]
    _compare(wire.KeptAttempt, attempts)
    _compare(wire.KeptSurvivor, [left for one in attempts for left in one.get("survivors", [])])
    _compare(wire.KeptUsage, [one["usage"] for one in attempts if one.get("usage")])
    _compare(wire.KeptSignal, [sent for one in attempts for sent in one.get("signals", [])])
    _compare(Totals, [message["totals"] for message in said if "totals" in message])


def test_fields_of_tomorrow_are_ignored(keeper: Keeper) -> None:
    keeper.link.send_raw(frame(b'{"type":"list","since":"tomorrow"}'))
    assert keeper.link.wait(wire.Listing).is_last


def _whole_trees(start: Start, order: Order, built: Built, frozen: Frozen) -> list[dict[str, Any]]:
    """One that is watched, one at its limits, and one that does not die."""
    watching = start("--no-controllers", at="watching")
    watched = {"memory_bytes": 1 << 30, "watched": ("memory", "pids")}
    watching.link.spawn(order("app.8#1", built("wait"), **watched))
    watching.link.send(wire.SendSignal(key="app.8#1", signal=signal.SIGKILL, note="too much"))
    assert watching.link.ended("app.8#1").signals[0].note == "too much"
    keeper = start(at="trees")
    limits = {"memory_bytes": 16 << 20, "pids": 10, "rlimits": {"core": 0}}
    said = order("app.6#1", built("eater"), **limits)
    keeper.link.run(said)
    said = order("app.7#1", built("wait"))
    pid = keeper.link.spawn(said).pid
    frozen(pid)
    keeper.link.signal("app.7#1", signal.SIGKILL)
    assert keeper.link.wait(wire.Stuck, "app.7#1").attempt.is_live
    frozen(None)
    keeper.link.ended("app.7#1")
    raws = (*watching.link.raw, *keeper.link.raw)
    return [msgspec.json.decode(raw) for raw in raws]


def _compare(
    struct: type, objects: list[dict[str, Any]], more: frozenset[str] | set[str] = frozenset()
) -> None:
    """All fields occur, no other does, and each object decodes."""
    expected = {one.encode_name for one in msgspec.structs.fields(struct)} | more
    assert {name for one in objects for name in one} == expected, struct
    for one in objects:
        msgspec.convert(one, struct)


def _json_kind(kind: msgspec.inspect.Type) -> tuple[type, ...]:
    match kind:
        case msgspec.inspect.StrType():
            return (str,)
        case msgspec.inspect.IntType():
            return (int,)
        case msgspec.inspect.VarTupleType():
            return (list,)
        case msgspec.inspect.DictType():
            return (dict,)
        case msgspec.inspect.BoolType():
            return (bool,)
        case msgspec.inspect.FloatType():
            return (float,)
        case msgspec.inspect.NoneType():
            return (type(None),)
        case msgspec.inspect.UnionType():
            return tuple(one for part in kind.types for one in _json_kind(part))
        case _:
            raise AssertionError(f"a kind of field that the keeper does not know: {kind}")

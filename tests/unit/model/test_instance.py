"""The life of an instance."""

from __future__ import annotations

import msgspec
import pytest

from corps.model.instance import (
    MOVES,
    Death,
    Exited,
    InstanceState,
    Signaled,
    SpawnFailed,
    Vanished,
    move,
)
from tests.support.build import NOW, a_dead_instance, an_instance

S = InstanceState


@pytest.mark.parametrize("old", [*S])
@pytest.mark.parametrize("new", [*S])
def test_an_instance_moves_only_where_it_may(old: InstanceState, new: InstanceState) -> None:
    instance = an_instance(state=old)
    if new in MOVES[old]:
        moved = move(instance, new, NOW + 5)
        assert (moved.state, moved.state_since) == (new, NOW + 5)
    else:
        with pytest.raises(AssertionError, match=f"web.1: {old} -> {new}"):
            move(instance, new, NOW + 5)


def test_the_dead_go_nowhere_and_everything_alive_may_die() -> None:
    assert MOVES[S.DEAD] == frozenset()
    assert all(S.DEAD in targets for state, targets in MOVES.items() if state is not S.DEAD)
    assert set(MOVES) == set(S)


def test_only_the_dead_are_not_alive() -> None:
    assert an_instance(state=S.UNKNOWN).is_live
    assert not a_dead_instance().is_live
    assert an_instance("db.main.12").key == "db.main.12#1"


@pytest.mark.parametrize(
    "death",
    [
        Exited(code=3),
        Signaled(signal=9, core_dumped=True),
        SpawnFailed(stage="execve", errno=2, message="x"),
        Vanished(reason="reboot", may_have_run=True),
    ],
)
def test_an_instance_is_read_as_it_was_written(death: Death) -> None:
    instance = a_dead_instance(death=death)
    data = msgspec.json.encode(instance)
    assert msgspec.json.decode(data, type=type(instance)) == instance

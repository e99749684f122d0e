"""What the STATE column says of an instance."""

from __future__ import annotations

import re

import pytest

from corps.cli.apps import state_of
from corps.core.views import view_instance
from corps.model.instance import Exited, Instance, InstanceState, await_next
from corps.model.terms import Restart
from tests.support.build import NOW, a_dead_instance, an_instance


def a_waiting_instance(in_s: float) -> Instance:
    dead = a_dead_instance(death=Exited(code=1), attempt=2, restart=Restart.ALWAYS)
    return await_next(dead, failures=2, not_before=NOW + in_s)


@pytest.mark.parametrize(
    ("instance", "state"),
    [
        (an_instance(), "running"),
        (an_instance(state=InstanceState.PENDING), "pending"),
        (a_dead_instance(), "dead: exited 0"),
        (a_waiting_instance(1_000), r"pending: attempt 3 in \d+\.\d s after exited 0"),
        (a_waiting_instance(-5), "pending: attempt 3 as soon as w1 is ready, after exited 0"),
    ],
)
def test_the_state_says_why_it_is_dead_and_when_it_is_started_again(
    instance: Instance, state: str
) -> None:
    assert re.fullmatch(state, state_of(view_instance(instance, now=NOW)))

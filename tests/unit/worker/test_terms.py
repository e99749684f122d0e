"""A user by name is a number of this machine, with all groups it is in."""

from __future__ import annotations

import os
import pwd

import pytest

from corps.errors import Invalid
from corps.model.terms import Limits, Linger, Terms
from corps.worker.terms import WATCHABLE, spawn_terms


def test_without_terms_nothing_is_asked_of_the_keeper() -> None:
    asked = spawn_terms(Terms())
    assert (asked["rlimits"], asked["uid"], asked["watched"]) == ({}, None, ())
    assert not asked["keeps_children"]


def test_limits_and_policies_are_passed_on() -> None:
    limits = Limits(nofile=5, core_bytes=0, memory_bytes=1 << 20, watchdog=True)
    asked = spawn_terms(Terms(limits=limits, linger=Linger.KEEP, nice=5))
    assert asked["rlimits"] == {"nofile": 5, "core": 0}
    assert (asked["memory_bytes"], asked["nice"]) == (1 << 20, 5)
    assert asked["watched"] == WATCHABLE
    assert asked["keeps_children"]


def test_a_user_has_its_own_groups() -> None:
    me = pwd.getpwuid(os.geteuid())
    asked = spawn_terms(Terms(user=me.pw_name))
    assert (asked["uid"], asked["gid"]) == (me.pw_uid, me.pw_gid)
    assert asked["groups"] == tuple(os.getgrouplist(me.pw_name, me.pw_gid))
    by_number = spawn_terms(Terms(user=f"{me.pw_uid}:7"))
    assert (by_number["uid"], by_number["gid"]) == (me.pw_uid, 7)


@pytest.mark.parametrize("user", ["no-such-user", "root:no-such-group"])
def test_who_is_not_known_here_is_refused(user: str) -> None:
    with pytest.raises(Invalid, match="no-such"):
        spawn_terms(Terms(user=user))

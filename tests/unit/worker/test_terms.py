"""A user by name is a number of this machine, with all groups it is in."""

from __future__ import annotations

import os
import pwd

import pytest

from corps.errors import Denied, Invalid
from corps.model.terms import Limits, Linger, Terms, check_terms
from corps.worker.terms import WATCHABLE, spawn_terms, user_environment


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


def test_a_user_by_number_need_not_be_known() -> None:
    terms = spawn_terms(Terms(user="3000000:17"))
    assert (terms["uid"], terms["gid"], terms["groups"]) == (3_000_000, 17, (17,))
    terms = spawn_terms(Terms(user="3000000"))
    assert (terms["gid"], terms["groups"]) == (3_000_000, (3_000_000,))


@pytest.mark.parametrize("user", ["4294967295", "nobody:4294967295", "99999999999"])
def test_a_number_that_the_kernel_takes_for_none_is_no_user(user: str) -> None:
    """With -1 setresuid(2) changes nothing: a launch as that would run as root."""
    with pytest.raises(Invalid, match="above 4294967294"):
        check_terms(Terms(user=user))
    with pytest.raises(Invalid, match="above 4294967294"):
        spawn_terms(Terms(user=user))


def test_only_root_can_run_as_somebody_else() -> None:
    child = os.fork()
    if child == 0:
        code = 9
        try:
            os.setresuid(3_000_000, 3_000_000, 3_000_000)
            same = spawn_terms(Terms(user="3000000"))
            code = 1 if same["uid"] == 3_000_000 else 8
            spawn_terms(Terms(user="nobody"))
        except Denied as error:
            code = 0 if "it cannot run anything as 'nobody'" in error.message else 7
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_user_finds_itself_in_its_environment() -> None:
    env = user_environment(0, "/work")
    assert (env["USER"], env["LOGNAME"], env["HOME"]) == ("root", "root", pwd.getpwuid(0).pw_dir)
    unknown = user_environment(3_000_000, "/work")
    assert unknown == {"HOME": "/work", "USER": "3000000", "LOGNAME": "3000000"}

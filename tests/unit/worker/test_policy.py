"""What a machine's owner allows there, and that a policy in doubt allows nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from corps.errors import Denied, Invalid
from corps.model.terms import Limits, Terms
from corps.worker.policy import PolicyFile, parse_policy, policy_file
from corps.worker.terms import spawn_terms

NOBODY = Terms(user="nobody")


def said(tmp_path: Path, text: str) -> PolicyFile:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    path.chmod(0o644)
    return PolicyFile(path)


def test_without_a_file_nothing_is_added(tmp_path: Path) -> None:
    terms = spawn_terms(Terms())
    assert PolicyFile(tmp_path / "none").hold(terms, {"LD_PRELOAD": "x"}) == terms


def test_a_named_file_that_is_not_there_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="nothing may start here"):
        policy_file(str(tmp_path / "none")).hold(spawn_terms(NOBODY), {})


def test_an_empty_policy_denies_root_low_users_and_loader_variables(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    assert policy.hold(spawn_terms(NOBODY), {"PATH": "/bin"}) == spawn_terms(NOBODY)
    with pytest.raises(Denied, match=r"running as root .*allow_root.*--user"):
        policy.hold(spawn_terms(Terms(user="root")), {})
    with pytest.raises(Denied, match=r"user 'daemon' \(uid 1\) .*min_uid = 1000"):
        policy.hold(spawn_terms(Terms(user="daemon")), {})
    for name in ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"):
        with pytest.raises(Denied, match=f"{name} .*allow_ld_env"):
            policy.hold(spawn_terms(NOBODY), {name: "/tmp/evil.so"})


def test_a_list_of_users_is_exact(tmp_path: Path) -> None:
    policy = said(tmp_path, 'allow_users = ["daemon", "nob"]')
    policy.hold(spawn_terms(Terms(user="daemon")), {})
    policy.hold(spawn_terms(Terms(user="1")), {})  # the same user by number
    with pytest.raises(Denied, match=r"'nobody' .*allow_users"):
        policy.hold(spawn_terms(NOBODY), {})
    with pytest.raises(Denied, match="root"):
        said(tmp_path, 'allow_users = ["root"]').hold(spawn_terms(Terms(user="root")), {})


def test_the_user_that_nobody_named_is_judged_as_well(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "run as root, as all tests of users are"
    with pytest.raises(Denied, match="root"):
        said(tmp_path, "").hold(spawn_terms(Terms()), {})
    said(tmp_path, "allow_root = true").hold(spawn_terms(Terms()), {})


def test_limits_are_imposed_and_not_exceeded(tmp_path: Path) -> None:
    policy = said(tmp_path, "max_memory_bytes = 1048576\nmax_pids = 5")
    held = policy.hold(spawn_terms(NOBODY), {})
    assert (held["memory_bytes"], held["pids"]) == (1 << 20, 5)
    less = policy.hold(spawn_terms(Terms(user="nobody", limits=Limits(pids=3))), {})
    assert less["pids"] == 3
    with pytest.raises(Denied, match=r"6 processes .*max_pids = 5"):
        policy.hold(spawn_terms(Terms(user="nobody", limits=Limits(pids=6))), {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("allow_rot = true", "unknown key 'allow_rot'.*allow_root"),
        ("min_uid = 'x'", "Expected `int`"),
        ("min_uid = true", "Expected `int`"),
        ("allow_root = 1", "Expected `bool`"),
        ("[", "at end of document"),
        ("min_uid = 1\nmin_uid = 2\n", "at line 2"),
    ],
)
def test_a_policy_with_a_mistake_says_where_and_allows_nothing(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(Invalid, match=why):
        parse_policy(text.encode())
    with pytest.raises(Denied, match=f"nothing may start here.*{why}"):
        said(tmp_path, text).hold(spawn_terms(NOBODY), {})


def test_a_policy_that_others_could_write_allows_nothing(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    path = tmp_path / "policy.toml"
    for mode in (0o666, 0o664):
        path.chmod(mode)
        with pytest.raises(Denied, match=re.escape(f"chmod go-w '{path}'")):
            policy.hold(spawn_terms(NOBODY), {})
    path.chmod(0o644)
    policy.hold(spawn_terms(NOBODY), {})
    os.chown(path, 1, 1)
    with pytest.raises(Denied, match="belongs to uid 1"):
        policy.hold(spawn_terms(NOBODY), {})


def test_a_change_counts_from_the_next_launch_on(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    with pytest.raises(Denied):
        policy.hold(spawn_terms(Terms(user="daemon")), {})
    said(tmp_path, "min_uid = 1")
    policy.hold(spawn_terms(Terms(user="daemon")), {})

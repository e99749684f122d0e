"""The keeper's rules and the worker's policy are one file: of users they allow the same."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from corps.errors import Denied
from corps.keeper.rules import Rules
from corps.model.instance import Launchable
from corps.model.terms import Terms
from corps.worker.policy import PolicyFile
from corps.worker.terms import spawn_terms

POLICIES = (
    "",
    "min_uid = 0",
    "min_uid = 5",
    "min_uid = 100000",
    "allow_root = true",
    "allow_users = []",
    'allow_users = ["games", "root"]',
    'allow_users = ["nobody"]\nallow_root = true',
    'allow_groups = ["video", "no-such-group"]',
    'default_user = "games"',
    'default_user = "2"\nallow_users = ["nobody"]',
    'default_user = "root"',
    "allow_new_privileges = true",
    "max_pids = 5\nallow_ld_env = true",
    "min_uid = true",
    "allow_root = 1",
    'allow_users = "games"',
    "default_user = 2",
    "not toml",
)
USERS = (
    *("root", "bin", "games", "nobody", "65534", "3000000", "0:0"),
    *("games:video", "nobody:root", "3000000:44", "games:games", "3000000:root"),
    *("44", "44:44"),  # no user has this number, and the group video has it
)


@pytest.mark.parametrize("text", POLICIES)
def test_keeper_and_worker_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.toml"
    path.write_text(text)
    path.chmod(0o644)
    rules, policy = Rules("daemon", str(path)), PolicyFile(tmp_path / "signed.json", path)
    launch = Launchable(artifact="web", digest="ab" * 32)
    for user, is_new in product(USERS, (False, True)):
        terms = spawn_terms(Terms(user=user, new_privileges=is_new))
        message: dict[str, Any] = {**terms, "groups": list(terms["groups"])}
        reason = rules.refusal(message)
        try:
            policy.hold(terms, launch, 0.0)
        except Denied as error:
            assert reason is not None, f"{user}: only the worker says {error.message!r}"
        else:
            assert reason is None, f"{user}: only the keeper says {reason!r}"

"""The policy of a machine through the whole of corps: its worker obeys its owner first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.cluster import Cluster
from tests.support.opened import opened_directory


@pytest.fixture(scope="module")
def ruled() -> Iterator[Cluster]:
    with opened_directory() as directory:
        policy = directory / "policy.toml"
        policy.write_text("max_pids = 20\n")
        policy.chmod(0o644)
        made = Cluster(directory)
        try:
            made.start_master()
            made.start_worker("w1", "--policy", str(policy))
            made.wait_state(w1="ready")
            made.copy(programs.build("limits", directory / "programs"))
            yield made
        finally:
            made.end()


def test_root_is_refused_with_the_rule_and_a_user_is_not(ruled: Cluster) -> None:
    refused = ruled.corps("launch", "limits", "--", "born", check=False)
    assert refused.returncode == 1
    assert "running as root is not allowed by this worker's policy (allow_root)" in refused.stderr
    done = ruled.corps("launch", "limits", "--user", "nobody", "-o", "json", "--", "born")
    (row,) = json.loads(done.stdout)
    dead = ruled.wait_dead(row["id"])
    assert dead.death is not None and dead.death.message == "exited 0"
    assert dead.enforced["pids"].startswith("cgroup v")


def test_what_makes_a_program_load_foreign_code_is_refused(ruled: Cluster) -> None:
    words = ["launch", "limits", "--user", "nobody", "--env", "LD_LIBRARY_PATH=/tmp", "--", "born"]
    refused = ruled.corps(*words, check=False)
    assert refused.returncode == 1
    assert "LD_LIBRARY_PATH is not allowed by this worker's policy (allow_ld_env)" in refused.stderr


def test_a_policy_in_doubt_stops_launches_and_nothing_else(ruled: Cluster) -> None:
    done = ruled.corps("launch", "limits", "--user", "nobody", "-o", "json", "--", "spin")
    (row,) = json.loads(done.stdout)
    policy: Path = ruled.directory / "policy.toml"
    before = policy.read_text()
    policy.write_text(before + "max_pid = 3\n")
    refused = ruled.corps("launch", "limits", "--user", "nobody", "--", "born", check=False)
    assert "unknown key 'max_pid'; did you mean 'max_pids'?" in refused.stderr
    assert ruled.get(row["id"]).state == "running"
    ruled.corps("kill", row["id"])
    policy.write_text(before)
    ruled.corps("launch", "limits", "--user", "nobody", "--", "born")


def test_where_signatures_are_wanted_only_a_signed_version_starts(
    ruled: Cluster, tmp_path: Path
) -> None:
    policy, key = ruled.directory / "policy.toml", tmp_path / "key"
    before = policy.read_text()
    public = ruled.corps("sign", "--new-key", str(key)).stdout.strip()
    policy.write_text(f'{before}require_signed = true\nsigner_keys = ["{public}"]\n')
    words = ["launch", "limits", "--user", "nobody", "--", "born"]
    refused = ruled.corps(*words, check=False)
    assert refused.returncode == 1 and "is not signed: sign it with 'corps sign'" in refused.stderr
    ruled.corps("sign", "limits", "--key", str(key))
    ruled.corps(*words)
    stranger = tmp_path / "stranger"
    ruled.corps("sign", "--new-key", str(stranger))
    ruled.corps("sign", "limits", "--key", str(stranger))
    refused = ruled.corps(*words, check=False)
    assert refused.returncode == 1 and "not in signer_keys" in refused.stderr
    policy.write_text(before)
    ruled.corps(*words)

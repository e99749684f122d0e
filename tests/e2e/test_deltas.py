"""A changed program to real workers: only its difference travels, and it runs."""

from __future__ import annotations

import json
from pathlib import Path

import zstandard

from tests.support.cluster import Cluster
from tests.support.large_program import compile_large

FUNCTIONS = 1_500


def test_of_a_program_with_one_function_changed_little_travels(
    shared: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    old = compile_large(tmp_path, "large", FUNCTIONS)
    new = compile_large(tmp_path / "new", "large", FUNCTIONS, changed=FUNCTIONS // 2)
    shared.copy(old)
    (row,) = json.loads(shared.corps("copy", str(new), "--to", "w1", "-o", "json").stdout)
    compressed_bytes = len(zstandard.ZstdCompressor(level=3).compress(new.read_bytes()))
    assert row["files_sent"] == 1
    assert 0 < row["bytes_sent"] <= 0.45 * compressed_bytes
    dead = shared.wait_dead(shared.launch_one("large", on="w1").id)
    assert dead.death is not None and dead.death.message == "exited 0"
    assert shared.log_of(dead.id) == "ready\n"


def test_a_rate_is_said_in_a_copy(shared: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    shared.copy(program, "--rate", "1M")
    assert shared.log_of(shared.wait_dead(shared.launch_one("slow", on="w1").id).id) == "hello\n"
    for wrong, says in (("12", "at least 1024"), ("fast", "bad size 'fast' for rate")):
        done = shared.corps("copy", str(program), "--rate", wrong, check=False)
        assert done.returncode == 3
        assert says in done.stderr

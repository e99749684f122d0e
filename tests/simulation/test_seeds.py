"""A few seeds of the simulation; `python -m tests.simulation run` does many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import outcome

SEEDS = range(20)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds_and_comes_right(seed: int) -> None:
    result = outcome(seed)
    assert result.failure is None, result.failure


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_is_the_same_whatever_the_order_of_hashes(hash_seed: str) -> None:
    seed = SEEDS[7]
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "replay", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"seed {seed}: {outcome(seed).digest}\n", done.stdout + done.stderr

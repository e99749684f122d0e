"""What a worker says of a death is bounded before it enters the tables."""

from __future__ import annotations

import math

import msgspec
import pytest

from corps.core import believe
from corps.model.instance import Evidence, LogLine, Machine, Survivor
from tests.support.build import NOW, a_report

MACHINE = Machine(load_1m=1.0, memory_total_bytes=10, memory_available_bytes=5)


def test_evidence_is_of_a_time_and_of_a_death() -> None:
    seen = Evidence(seen_at=NOW)
    assert believe.evidence(seen) == seen
    assert believe.evidence(Evidence(seen_at=math.inf)) is None
    living = believe.report(a_report(evidence=seen))
    assert living is not None and living.evidence is None


def test_words_and_lines_have_limits() -> None:
    said = Evidence(
        seen_at=NOW,
        argv=("x" * 5_000,) * 50,
        last_lines=(LogLine(stream="stderr" * 50, text="y" * 600),) * 50,
        oom="o" * 5_000,
        limit="l" * 5_000,
        lingering=-1,
        survivors=(Survivor(pid=-1, command="z" * 5_000),) * 50,
    )
    kept = believe.evidence(said)
    assert kept is not None
    assert len(kept.argv) == believe.LIST_MAX
    assert len(kept.last_lines) == believe.LINES_MAX_CHARS // 600
    assert {len(text) for text in (*kept.argv, kept.oom, kept.limit) if text} == {believe.TEXT_MAX}
    assert (kept.lingering, len(kept.survivors)) == (0, believe.LIST_MAX)


@pytest.mark.parametrize(
    "wrong",
    [
        {"load_1m": math.nan},
        {"load_1m": -1.0},
        {"cpu_pressure_percent": math.inf},
        {"io_pressure_percent": -0.1},
    ],
)
def test_a_machine_in_a_state_that_cannot_be_is_unknown(wrong: dict[str, float]) -> None:
    machine = msgspec.structs.replace(MACHINE, **wrong)
    kept = believe.evidence(Evidence(seen_at=NOW, machine=machine))
    assert kept is not None and kept.machine is None
    kept = believe.evidence(Evidence(seen_at=NOW, machine=MACHINE))
    assert kept is not None and kept.machine == MACHINE


def test_sizes_of_a_machine_are_sizes() -> None:
    odd = msgspec.structs.replace(MACHINE, memory_available_bytes=-5)
    kept = believe.evidence(Evidence(seen_at=NOW, machine=odd))
    assert kept is not None and kept.machine is not None
    assert kept.machine.memory_available_bytes == 0

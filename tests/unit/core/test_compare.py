"""Versions of an app compared: medians, and sentences that say no more than the runs show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from corps.core.compare import Run, compare
from tests.support.usage import MIB, NOW

OLD, NEW, THIRD = "9f3c" + "0" * 60, "1a2b" + "0" * 60, "5e6f" + "0" * 60


def runs(
    digest: str, peaks_mib: Sequence[float | None], at: float = NOW, **facts: Any
) -> list[Run]:
    fields: dict[str, Any] = {"is_failure": False, "seconds": 3_600.0, "cpu_s": 60.0} | facts
    return [
        Run(
            digest=digest,
            placed_at=at + number,
            rss_peak_bytes=None if peak is None else round(peak * MIB),
            **fields,
        )
        for number, peak in enumerate(peaks_mib)
    ]


def test_more_memory_is_told_with_medians_and_counts_of_runs() -> None:
    made = compare(
        "web",
        [
            *runs(OLD, (99, 100, 100, 100, 101, 100, 100)),
            *runs(NEW, (117, 118, 118, 119, 118), NOW + 99),
        ],
    )
    assert made.sentences[0] == (
        "web@1a2b uses 18 % more memory than web@9f3c "
        "(median peak 118 MiB against 100 MiB, 5 and 7 runs)"
    )
    old, new = made.versions
    assert (old.version, old.runs, old.rss_peak_bytes) == ("web@9f3c", 7, 100 * MIB)
    assert (new.version, new.runs, new.rss_peak_bytes) == ("web@1a2b", 5, 118 * MIB)


def test_less_memory_is_told_as_well() -> None:
    made = compare("web", [*runs(OLD, (100,) * 3), *runs(NEW, (50,) * 3, NOW + 9)])
    assert made.sentences[0].startswith("web@1a2b uses 50 % less memory than web@9f3c (median")


def test_a_small_difference_is_none() -> None:
    made = compare("web", [*runs(OLD, (100,) * 3), *runs(NEW, (104,) * 3, NOW + 9)])
    assert made.sentences[0].startswith("web@1a2b uses as much memory as web@9f3c (median peak")


def test_runs_that_differ_among_themselves_show_no_difference() -> None:
    made = compare("web", [*runs(OLD, (50, 100, 150)), *runs(NEW, (60, 120, 180), NOW + 9)])
    assert made.sentences[0].startswith(
        "no clear difference in memory between web@1a2b and web@9f3c (median peak 120 MiB against"
    )


def test_too_few_runs_are_not_judged() -> None:
    made = compare("web", [*runs(OLD, (100,) * 3), *runs(NEW, (500, 500), NOW + 9)])
    assert made.sentences == (
        "too few runs to compare web@1a2b with web@9f3c: web@1a2b has 2, it takes 3",
    )


def test_too_few_measured_runs_are_passed_over() -> None:
    made = compare("web", [*runs(OLD, (100, None, None)), *runs(NEW, (500,) * 3, NOW + 9)])
    assert not any("memory" in sentence for sentence in made.sentences)
    assert any("CPU time" in sentence for sentence in made.sentences)
    assert made.versions[0].rss_peak_bytes == 100 * MIB


def test_cpu_is_per_hour_of_running_and_launches_and_failures_are_told() -> None:
    made = compare(
        "web",
        [
            *runs(OLD, (100,) * 3, launch_s=0.1),
            *runs(NEW, (100,) * 3, NOW + 9, seconds=360.0, cpu_s=9.0, launch_s=0.2),
            *runs(NEW, (100,), NOW + 20, is_failure=True, launch_s=0.2, cpu_s=None),
        ],
    )
    assert made.versions[1].cpu_s_per_hour == pytest.approx(90.0)
    assert [text.partition(" (")[0] for text in made.sentences[1:]] == [
        "web@1a2b uses 50 % more CPU time than web@9f3c",
        "web@1a2b takes 100 % longer to start than web@9f3c",
        "of the runs that ended web@1a2b failed in 1 of 4 and web@9f3c failed in 0 of 3",
    ]
    assert (made.versions[1].failures, made.versions[1].runs) == (1, 4)


def test_something_against_nothing_is_no_percentage() -> None:
    idle = runs(OLD, (100,) * 3, cpu_s=0.0)
    made = compare("web", [*idle, *runs(NEW, (100,) * 3, NOW + 9)])
    assert "web@1a2b uses infinitely more CPU time than web@9f3c" in made.sentences[1]
    assert (
        "as much CPU time"
        in compare("web", [*idle, *runs(NEW, (1,) * 3, 9, cpu_s=0.0)]).sentences[1]
    )


def test_living_runs_count_and_are_no_failures() -> None:
    made = compare("web", runs(OLD, (100,) * 2, is_failure=None))
    (version,) = made.versions
    assert (version.runs, version.runs_live, version.failures) == (2, 2, 0)
    assert made.sentences == ("web@9f3c is the only version of web with runs",)


def test_each_version_is_held_against_the_one_before_or_the_chosen_two_in_their_order() -> None:
    all_runs = [
        *runs(THIRD, (300,) * 3, NOW + 50),
        *runs(NEW, (200,) * 3, NOW + 20),
        *runs(OLD, (100,) * 3),
    ]
    made = compare("web", all_runs)
    assert [version.digest for version in made.versions] == [OLD, NEW, THIRD]
    assert [text.partition(" (")[0] for text in made.sentences if "more memory than" in text] == [
        "web@1a2b uses 100 % more memory than web@9f3c",
        "web@5e6f uses 50 % more memory than web@1a2b",
    ]
    chosen = compare("web", all_runs, (THIRD, OLD))
    assert [version.digest for version in chosen.versions] == [THIRD, OLD]
    assert chosen.sentences[0].startswith("web@9f3c uses 67 % less memory than web@5e6f")


def test_versions_are_named_by_as_many_digits_as_tell_them_apart() -> None:
    near = "9f3cff" + "0" * 58
    made = compare("web", [*runs(OLD, (1,)), *runs(near, (1,), NOW + 9)])
    assert [version.version for version in made.versions] == ["web@9f3c0", "web@9f3cf"]


def test_an_app_without_runs_has_no_versions() -> None:
    made = compare("web", ())
    assert (made.versions, made.sentences) == ((), ())

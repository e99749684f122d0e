"""Sizes and durations in the words of people."""

from __future__ import annotations

import pytest

from corps.model.measure import duration, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_536, "1.5 KiB"),
        (1_048_575, "1.0 MiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000 s"),
        (9.9, "9.900 s"),
        (42.0, "42.0 s"),
        (187.0, "3m07s"),
        (18_120.0, "5h02m"),
        (1_047_600.0, "12d03h"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text

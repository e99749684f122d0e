from __future__ import annotations

import pytest

from corps.cli.moment import parse_since, unix
from corps.clock import Clock
from corps.errors import Malformed


def test_rfc3339_with_and_without_zone() -> None:
    assert unix("1970-01-01T00:01:00Z") == 60.0
    assert unix("1970-01-01T01:01:00.500+01:00") == 60.5
    assert unix("1970-01-01T00:01:00") == 60.0
    assert parse_since("1970-01-01") == 0.0


@pytest.mark.parametrize(
    ("text", "ago_s"), [("30s", 30), ("1.5m", 90), ("2h", 7_200), ("1d", 86_400), ("0s", 0)]
)
def test_how_long_ago(text: str, ago_s: float) -> None:
    assert parse_since(text) == pytest.approx(Clock()() - ago_s, abs=1.0)
    assert parse_since(text, lambda: 1_000_000.0) == 1_000_000.0 - ago_s


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "10 m", "-10m", "10w", "2026-13-01", "٣m", "9" * 30 + "s"]
)
def test_anything_else_is_refused_with_the_formats(text: str) -> None:
    with pytest.raises(Malformed, match="spelled 2026-11-23T13:28:00Z, or how long ago: 30s 10m"):
        parse_since(text)

"""Points in time as operators write them and as the master spells them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

from corps.clock import Clock
from corps.errors import Malformed

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_AGO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])")


def parse_since(text: str, now: Callable[[], float] | None = None) -> float:
    """`10m` ago or `2026-11-23T13:28:00Z` -> unix seconds. Raise Malformed naming the formats.

    `now` tells what the master's clock says: ours may have been stepped.
    """
    match = _AGO.fullmatch(text)
    if match is not None:
        return (Clock() if now is None else now)() - float(match[1]) * UNITS_S[match[2]]
    try:
        return unix(text)
    except (ValueError, OverflowError):
        raise Malformed(
            f"bad time {text[:80]!r}: spelled 2026-11-23T13:28:00Z, or how long ago: 30s 10m 2h 1d"
        ) from None


def parse_duration(text: str) -> float:
    """`90d` -> seconds. Raise Malformed naming the formats."""
    match = _AGO.fullmatch(text)
    if match is None:
        raise Malformed(f"bad time {text[:80]!r}: how long, spelled 30s 10m 2h 90d")
    return float(match[1]) * UNITS_S[match[2]]


def unix(text: str) -> float:
    """RFC 3339 -> unix seconds; without a zone it is UTC. Raise ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()

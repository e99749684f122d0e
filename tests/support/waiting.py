"""Waiting for the truth of something, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(predicate: Callable[[], T], deadline_s: float = 20.0, every_s: float = 0.02) -> T:
    """The first true value of `predicate`; AssertionError when `deadline_s` passes before."""
    end = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s; last value: {value!r}")
        time.sleep(every_s)

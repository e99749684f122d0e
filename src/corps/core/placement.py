"""Which worker for which instance: spread over the least loaded."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from corps.model.name import WorkerName


def place(count: int, loads: Mapping[WorkerName, int]) -> list[WorkerName]:
    """A worker for each of `count` instances, the least loaded next, of equals the first by name.

    `loads` counts the live instances of each worker that may be chosen; there is at least one.
    """
    assert loads, "nowhere to place"
    heap = [(load, name) for name, load in loads.items()]
    heapq.heapify(heap)
    chosen: list[WorkerName] = []
    for _ in range(count):
        load, name = heap[0]
        heapq.heapreplace(heap, (load + 1, name))
        chosen.append(name)
    return chosen


def why_there(on: str | None, count: int | None, usable: int) -> str:
    """Why a launch went where it went; `usable` is how many workers it could choose from."""
    of = f" of {on!r}" if on is not None else ""
    if on is not None and count is None:
        return f"one on each worker{of}"
    if usable == 1:
        return f"the only usable worker{of}"
    return f"the fewest instances of the {usable} usable workers{of}"

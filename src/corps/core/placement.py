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

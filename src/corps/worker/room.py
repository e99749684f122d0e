"""Is there room on the worker's disk for what an artifact lacks here?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from corps.model.name import Digest
from corps.store.blobs import BlobStore
from corps.store.trees import Trees

BLOCK_BYTES = 4_096
RESERVE_BYTES = 1 << 20


class Lack(NamedTuple):
    needed_bytes: int
    free_bytes: int


def lack_of_room(sizes: Mapping[Digest, int], blobs: BlobStore, trees: Trees) -> Lack | None:
    """None: all of `sizes`, by digest, is here or fits. Blocking.

    What is here already, or has begun to arrive, needs no room any more; what no artifact needs
    goes first when there is too little.
    """
    missing = blobs.missing(sizes)
    needed_bytes = RESERVE_BYTES + sum(
        -(-sizes[blob] // BLOCK_BYTES) * BLOCK_BYTES - blobs.partial_bytes(blob) for blob in missing
    )
    if not missing or needed_bytes <= blobs.free_bytes():
        return None
    trees.collect()
    free_bytes = blobs.free_bytes()
    return None if needed_bytes <= free_bytes else Lack(needed_bytes, free_bytes)

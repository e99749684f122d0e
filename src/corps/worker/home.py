"""What a worker has on its machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.worker.policy import PolicyFile
from corps.worker.state import WorkerFile


class Home(NamedTuple):
    """Where a worker lives and what it has there."""

    directory: Path
    name: str
    file: WorkerFile
    blobs: BlobStore
    trees: Trees
    policy: PolicyFile
    disk_reserve_bytes: int | None = None
    sample_s: float = 0.0
    keeper: Path | None = None  # where one is that we have not started: it has rights of its own
    nice: int = 0  # of what it starts: its own may be less

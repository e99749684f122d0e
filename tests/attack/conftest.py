"""A cluster for the attacks that it must survive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.opened import opened_directory


@pytest.fixture(scope="module")
def attacked() -> Iterator[Cluster]:
    """A master and two workers, in a directory that everybody may come to, as to /var/lib."""
    with opened_directory() as directory:
        made = Cluster(directory)
        try:
            made.start_master("--heartbeat", "2")  # so that a lost beat is an attack's doing
            for name in ("w1", "w2"):
                made.start_worker(name)
            made.wait_state(w1="ready", w2="ready")
            yield made
        finally:
            made.end()

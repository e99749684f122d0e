"""A cluster for the attacks that it must survive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, cluster
from tests.support.opened import opened_directory


@pytest.fixture(scope="module")
def attacked() -> Iterator[Cluster]:
    """A master and two workers, in a directory that everybody may come to, as to /var/lib."""
    with opened_directory() as directory, cluster(directory, "w1", "w2") as made:
        yield made

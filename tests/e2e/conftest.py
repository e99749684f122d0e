"""Clusters for the tests of a module, and for one test alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster
from tests.support.frozen import Frozen, freezer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers, for tests that harm nobody."""
    with cluster(tmp_path_factory.mktemp("shared"), "w1", "w2") as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cluster]:
    """A master and one worker, for a test that kills daemons."""
    with cluster(tmp_path, "w1") as made:
        yield made


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    with freezer() as freeze:
        yield freeze

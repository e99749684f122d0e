"""Which instances and artifacts an operator means."""

from __future__ import annotations

import pytest

from corps.core.cluster import Cluster
from corps.core.records import App, Meta
from corps.core.targets import find_artifact, find_instances
from corps.errors import Invalid, NotFound
from tests.support.build import a_dead_instance, a_worker, an_artifact, an_instance


def a_cluster() -> Cluster:
    return Cluster(
        Meta(cluster="c-1", epoch=1),
        [
            a_worker(),
            App(name="web", next_number=4),
            App(name="api", next_number=2),
            an_instance("web.1"),
            a_dead_instance("web.2"),
            an_instance("web.3"),
            an_instance("api.1"),
        ],
    )


def found(*targets: str, with_dead: bool = False) -> list[str]:
    return [i.id for i in find_instances(a_cluster(), targets, with_dead=with_dead)]


def test_an_app_means_its_living_instances() -> None:
    assert found("web") == ["web.1", "web.3"]


def test_the_dead_are_meant_when_named_or_wanted() -> None:
    assert found("web.2") == ["web.2"]
    assert found("web", with_dead=True) == ["web.1", "web.2", "web.3"]


def test_all_means_everything_and_each_is_meant_once() -> None:
    assert found("--all") == ["web.1", "web.3", "api.1"]
    assert found("web.3", "web", "web.3", "--all") == ["web.3", "web.1", "api.1"]


def test_a_target_that_nothing_is_called_is_not_found_and_a_near_one_named() -> None:
    with pytest.raises(NotFound, match=r"no app or instance 'wbe'; did you mean 'web'\?"):
        found("wbe")
    with pytest.raises(NotFound, match=r"no app or instance 'web\.9'"):
        found("web.1", "web.9")


@pytest.mark.parametrize("targets", [(), ("web",) * 10_001])
def test_there_are_some_targets_and_not_too_many(targets: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="targets: from 1 to 10000"):
        found(*targets)


def test_an_artifact_is_the_newest_or_the_one_whose_digest_begins_so() -> None:
    old = an_artifact(digest="aaaa" + "1" * 60, created_at=1.0)
    new = an_artifact(digest="aabb" + "1" * 60, created_at=2.0)
    cluster = Cluster(Meta(cluster="c-1", epoch=1), [new, old])
    assert find_artifact(cluster, "web") == new
    assert find_artifact(cluster, "web@aaaa") == old
    with pytest.raises(NotFound, match="no artifact 'api'; copy it first"):
        find_artifact(cluster, "api")
    with pytest.raises(NotFound, match=r"no artifact 'wbe'; did you mean 'web'\?"):
        find_artifact(cluster, "wbe")
    with pytest.raises(NotFound, match="has no version 'aacc'"):
        find_artifact(cluster, "web@aacc")

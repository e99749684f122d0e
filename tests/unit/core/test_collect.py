"""What is garbage, in which order it goes, and what never does."""

from __future__ import annotations

import msgspec
import pytest

from corps.core import collect
from corps.core.cluster import Cluster
from corps.core.collect import WITHIN, check_collectable, leases
from corps.core.records import CommandRecord, Meta, artifact_key
from corps.errors import Conflict
from corps.model.artifact import Artifact
from corps.model.command import Copied, Copy
from corps.model.instance import InstanceState, Launchable, Timings
from tests.support.build import (
    CLUSTER,
    NOW,
    a_dead_instance,
    a_worker,
    an_artifact,
    an_instance,
)

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def version(digest: str, age_s: float, name: str = "web", *tags: str) -> Artifact:
    made = an_artifact(name=name, digest=digest)
    return msgspec.structs.replace(made, created_at=NOW - age_s, tags=tags)


def a_cluster(*records: Artifact | CommandRecord) -> Cluster:
    return Cluster(Meta(cluster=CLUSTER, epoch=1), [a_worker(), *records])


def judged(
    cluster: Cluster, budget_bytes: int | None = None, *, with_newest: bool = False
) -> dict[str, str | None]:
    """By the first letter of each version, why it is kept. Each has 100 bytes, of which 40 in a
    blob that all share."""
    contents = {
        one.digest: {one.digest: 10, f"own of {one.digest[0]}": 50, "shared": 40}
        for one in cluster.artifacts.values()
    }
    verdicts, _, _ = collect.plan(cluster, contents, budget_bytes, with_newest=with_newest)
    return {verdict.artifact.digest[0]: verdict.kept_for for verdict in verdicts}


def test_what_a_newer_version_replaced_is_garbage() -> None:
    cluster = a_cluster(version(A, 30), version(B, 20), version(C, 10, "api"))
    assert judged(cluster) == {"a": None, "b": "the newest web", "c": "the newest api"}
    assert judged(cluster, with_newest=True) == {"a": None, "b": None, "c": None}


def test_a_tag_keeps_a_version() -> None:
    cluster = a_cluster(version(A, 30, "web", "1.0", "stable"), version(B, 20), version(C, 10))
    assert judged(cluster) == {"a": "tagged 1.0 stable", "b": None, "c": "the newest web"}


def test_what_runs_or_waits_to_run_is_kept_under_every_name() -> None:
    cluster = a_cluster(version(A, 40), version(B, 30), version(B, 30, "same"), version(C, 20))
    cluster.put(an_instance("web.1", launch=Launchable(artifact="web", digest=A)))
    waits = a_dead_instance("web.2", launch=Launchable(artifact="web", digest=B))
    cluster.put(msgspec.structs.replace(waits, state=InstanceState.PENDING, not_before=NOW + 9))
    kept = collect.leases(cluster)
    assert kept == {A: "web.1 is running", B: "web.2 waits to run it again"}
    assert judged(cluster, with_newest=True) == {"a": kept[A], "b": kept[B], "c": None}
    with pytest.raises(Conflict, match=r"web\.1 is running"):
        check_collectable(cluster, version(A, 40))
    check_collectable(cluster, version(C, 20))
    with pytest.raises(Conflict, match="tagged x"):
        check_collectable(cluster, version(C, 20, "web", "x"))


def test_what_is_being_copied_is_kept_until_that_is_done() -> None:
    cluster = a_cluster(version(A, 30), version(B, 20))
    copy = CommandRecord(
        id="order-01", body="", command=Copy(name="web", digest=A), by="me", at=NOW
    )
    cluster.put(copy)
    assert leases(cluster) == {A: "it is being copied"}
    cluster.put(msgspec.structs.replace(copy, result=Copied(workers=()), done_at=NOW))
    assert leases(cluster) == {}


@pytest.mark.parametrize(
    ("budget_bytes", "gone"),
    [(280, ""), (279, "b"), (220, "b"), (219, "bc"), (160, "bc"), (0, "bca"), (None, "bca")],
)
def test_within_a_budget_the_longest_unused_go_first(budget_bytes: int | None, gone: str) -> None:
    """Four versions take 4 x 60 bytes, and 40 that they share; the oldest was launched last."""
    cluster = a_cluster(version(A, 90), version(B, 80), version(C, 70), version(D, 60))
    cluster.put(
        a_dead_instance(
            launch=Launchable(artifact="web", digest=A), timings=Timings(placed_at=NOW - 5)
        )
    )
    kept = judged(cluster, budget_bytes)
    assert "".join(digest for digest, why in kept.items() if why is None) == gone
    assert kept["d"] == "the newest web"
    assert {why for digest, why in kept.items() if digest not in (*gone, "d")} <= {WITHIN}


def test_what_it_frees_is_what_nobody_else_has() -> None:
    cluster = a_cluster(version(A, 30), version(B, 20))
    contents = {A: {A: 1, "x": 10, "y": 100}, B: {B: 1, "y": 100}}
    verdicts, stored, left = collect.plan(cluster, contents, None)
    assert [(verdict.artifact.digest, verdict.frees_bytes) for verdict in verdicts] == [
        (A, 11),
        (B, 101),
    ]
    assert (stored, left) == (112, 101)
    verdicts, _, left = collect.plan(cluster, {B: contents[B]}, None)  # A was just copied
    assert [artifact_key(verdict.artifact) for verdict in verdicts] == [f"web@{B}"]
    assert left == 101

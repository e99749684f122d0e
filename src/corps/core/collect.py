"""Garbage: which versions may go, oldest use first, until what is left is within a budget.

Leased is, and never goes: what an instance runs or waits to run, what is being copied, what has a
tag. The newest version of a name stays as well, unless its going is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from corps.core.cluster import Cluster
from corps.core.records import artifact_key
from corps.errors import Conflict
from corps.model.artifact import Artifact
from corps.model.command import Copy
from corps.model.name import Digest

WITHIN = "within the budget"


class Verdict(msgspec.Struct, frozen=True):
    """Of one version: `kept_for` None means that it goes."""

    artifact: Artifact
    used_at: float
    frees_bytes: int
    kept_for: str | None


def leases(cluster: Cluster) -> dict[Digest, str]:
    """Why versions may not go, by digest: whatever name they were launched under."""
    found: dict[Digest, str] = {}
    for record in cluster.commands.values():
        if isinstance(record.command, Copy) and record.result is None:
            found[record.command.digest] = "it is being copied"
    for instance in cluster.instances.values():
        if instance.is_live:
            verb = "waits to run it again" if instance.is_waiting else f"is {instance.state}"
            found[instance.launch.digest] = f"{instance.id} {verb}"
    return found


def check_collectable(cluster: Cluster, artifact: Artifact) -> None:
    """Raise Conflict for what has been leased since it was called garbage."""
    lease = leases(cluster).get(artifact.digest) or _tagged(artifact)
    if lease is not None:
        raise Conflict(f"{artifact_key(artifact)[:76]} is no garbage: {lease}")


def plan(
    cluster: Cluster,
    contents: Mapping[Digest, Mapping[Digest, int]],
    budget_bytes: int | None,
    *,
    with_newest: bool = False,
) -> tuple[list[Verdict], int, int]:
    """A verdict on every version, and how many bytes are stored before and after.

    `contents` has the size of each blob of each version. Without a budget all garbage goes.
    """
    leased, used_at = leases(cluster), _used_at(cluster)
    known = {key: one for key, one in cluster.artifacts.items() if one.digest in contents}
    newest = {} if with_newest else _newest(known.values())
    names = Counter(blob for one in known.values() for blob in contents[one.digest])
    sizes = {blob: size for blobs in contents.values() for blob, size in blobs.items()}
    stored_bytes = left_bytes = sum(sizes[blob] for blob in names)
    verdicts = []
    order = sorted(known.items(), key=lambda item: (used_at[item[0]], item[0]))
    for key, artifact in order:
        kept_for = leased.get(artifact.digest) or _tagged(artifact) or newest.get(key)
        if kept_for is None and budget_bytes is not None and left_bytes <= budget_bytes:
            kept_for = WITHIN
        frees_bytes = sum(sizes[b] for b in contents[artifact.digest] if names[b] == 1)
        if kept_for is None:
            names.subtract(contents[artifact.digest].keys())
            left_bytes -= frees_bytes
        verdicts.append(Verdict(artifact, used_at[key], frees_bytes, kept_for))
    return verdicts, stored_bytes, left_bytes


def _tagged(artifact: Artifact) -> str | None:
    return f"tagged {' '.join(artifact.tags)}" if artifact.tags else None


def _newest(artifacts: Iterable[Artifact]) -> dict[str, str]:
    latest: dict[str, Artifact] = {}
    for artifact in artifacts:
        known = latest.get(artifact.name)
        if known is None or artifact.created_at > known.created_at:
            latest[artifact.name] = artifact
    return {artifact_key(one): f"the newest {one.name}" for one in latest.values()}


def _used_at(cluster: Cluster) -> dict[str, float]:
    """By version, when it was last copied, or an attempt of it placed that is still known."""
    placed: dict[Digest, float] = {}
    for instance in cluster.instances.values():
        digest, at = instance.launch.digest, instance.timings.placed_at
        placed[digest] = max(at, placed.get(digest, 0.0))
    return {
        key: max(artifact.created_at, placed.get(artifact.digest, 0.0))
        for key, artifact in cluster.artifacts.items()
    }

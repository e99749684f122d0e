"""TARGET: which instances an operator means. An instance `web.3`, an app `web`, or `--all`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from corps.core.cluster import Cluster
from corps.errors import Invalid, NotFound
from corps.model.artifact import Artifact, split_artifact, split_tag
from corps.model.command import TARGETS_MAX
from corps.model.instance import Instance
from corps.model.name import did_you_mean

ALL = "--all"


def find_instances(
    cluster: Cluster, targets: Sequence[str], *, with_dead: bool = False
) -> list[Instance]:
    """The instances meant, each once. A dead one only when named itself, or `with_dead`.

    Raise NotFound for a target that is neither instance nor app; Invalid for too many or none.
    """
    if not 0 < len(targets) <= TARGETS_MAX:
        raise Invalid(f"{len(targets)} targets: from 1 to {TARGETS_MAX}", field="targets")
    found: dict[str, Instance] = {}
    for target in dict.fromkeys(targets):
        for instance in _of(cluster, target):
            if with_dead or instance.is_live or instance.id == target:
                found[instance.id] = instance
    return list(found.values())


def _of(cluster: Cluster, target: str) -> list[Instance]:
    if target == ALL:
        return list(cluster.instances.values())
    instance = cluster.instances.get(target)
    if instance is not None:
        return [instance]
    if target in cluster.apps:
        return cluster.of_app(target)
    known = itertools.chain(cluster.apps, cluster.instances)
    raise NotFound(
        f"no app or instance {target[:80]!r}{did_you_mean(target, known)}", target=target
    )


def find_artifact(cluster: Cluster, text: str) -> Artifact:
    """`web` is its newest version, `web@3f2a` the one whose digest begins so, `web:1.2` the one
    with that tag.

    Raise NotFound, or Invalid when a short digest means several.
    """
    untagged, tag = split_tag(text)
    name, digest = split_artifact(untagged)
    versions = [artifact for artifact in cluster.artifacts.values() if artifact.name == name]
    if not versions:
        names = [artifact.name for artifact in cluster.artifacts.values()]
        hint = did_you_mean(name, names) or "; copy it first: corps copy PATH"
        raise NotFound(f"no artifact {name!r}{hint}", artifact=name)
    if tag is not None:
        tagged = [artifact for artifact in versions if tag in artifact.tags]
        if not tagged:
            known = [one for artifact in versions for one in artifact.tags]
            hint = did_you_mean(tag, known)
            raise NotFound(f"artifact {name!r} has no tag {tag!r}{hint}", artifact=name)
        return tagged[0]
    if digest is None:
        return max(versions, key=lambda artifact: artifact.created_at)
    meant = [artifact for artifact in versions if artifact.digest.startswith(digest)]
    if not meant:
        raise NotFound(f"artifact {name!r} has no version {digest!r}", artifact=name)
    if len(meant) > 1:
        raise Invalid(f"{text!r} means {len(meant)} versions: give more digits", field="artifact")
    return meant[0]

"""What operators say of a version of an artifact that is there already."""

from __future__ import annotations

import msgspec

from corps.core.candidates import chosen_workers
from corps.core.cluster import Cluster
from corps.core.ledger import Ledger
from corps.core.targets import find_artifact
from corps.errors import Conflict, Invalid, NotFound
from corps.model.artifact import Artifact, check_tag, split_tag
from corps.model.command import Copy, Sign, Tag
from corps.model.name import Digest
from corps.model.signature import check_signature
from corps.wire.worker import Install

TAGS_MAX = 100  # of one version


def sign(ledger: Ledger, command: Sign, by: str) -> tuple[str, ...]:
    """Keep the signature; the worker that is to believe it is who verifies it."""
    check_signature(command.signature)
    vouched = command.signature.vouched
    artifact = find_artifact(ledger.cluster, f"{vouched.name}@{vouched.digest}")
    before = artifact.signature
    if before is not None and vouched.counter < before.vouched.counter:
        raise Conflict(
            f"{vouched.name!r} has a newer signature (counter {before.vouched.counter})",
            artifact=vouched.name,
        )
    ledger.save(msgspec.structs.replace(artifact, signature=command.signature))
    key = command.signature.key
    ledger.happened("sign", vouched.name, f"{vouched.digest[:12]} with {key}, by {by}")
    return ()


def tag(ledger: Ledger, command: Tag, by: str) -> tuple[str, ...]:
    """A tag names one version of a name, and goes to another only when told to."""
    artifact = find_artifact(ledger.cluster, command.artifact)
    if command.tag is None:
        _, old = split_tag(command.artifact)
        if old is None:
            raise Invalid("say which tag: NAME:TAG", field="tag")
        _without(ledger, artifact, old)
        ledger.happened("untag", artifact.name, f"{old} from {artifact.digest[:12]}, by {by}")
        return ()
    holder = holder_of(ledger.cluster, artifact.name, command.tag)
    if holder is not None and holder.digest != artifact.digest:
        if not command.moves:
            raise taken(holder, command.tag)
        _without(ledger, holder, command.tag)
    ledger.save(msgspec.structs.replace(artifact, tags=with_tag(artifact, command.tag)))
    ledger.happened("tag", artifact.name, f"{command.tag} to {artifact.digest[:12]}, by {by}")
    return ()


def check_free(cluster: Cluster, name: str, tag: str, digest: Digest) -> None:
    """Raise Conflict when another version has the tag: what a tag names does not change."""
    holder = holder_of(cluster, name, check_tag(tag))
    if holder is not None and holder.digest != digest:
        raise taken(holder, tag)


def with_tag(artifact: Artifact, tag: str | None) -> tuple[str, ...]:
    """Its tags, and this one."""
    if tag is None:
        return artifact.tags
    tags = tuple(sorted({*artifact.tags, check_tag(tag)}))
    if len(tags) > TAGS_MAX:
        raise Invalid(f"{artifact.name!r} has {TAGS_MAX} tags at one version", field="tag")
    return tags


def repair(ledger: Ledger, command: Copy) -> tuple[str, ...]:
    """Have what drifted made whole where it should be; no record changes by it."""
    key = f"{command.name}@{command.digest}"
    artifact = ledger.cluster.artifacts.get(key)
    if artifact is None:
        raise Conflict(f"{key[:76]} was deleted: copy it again", artifact=command.name)
    chosen = chosen_workers(ledger, command.to)
    names = [worker.name for worker in chosen if worker.name in artifact.workers]
    if not names:
        raise Conflict(f"{key[:76]} should not be on {command.to!r}: copy it there", key=key)
    for name in names:
        transfer = msgspec.structs.replace(command.transfer, forced=name in artifact.forced)
        ledger.send_to(name, Install(digest=command.digest, transfer=transfer))
    shown = ", ".join(map(repr, names[:5]))
    ledger.happened("repair", command.name, f"{key[: len(command.name) + 13]} on {shown}")
    return tuple(names)


def holder_of(cluster: Cluster, name: str, tag: str) -> Artifact | None:
    try:
        return find_artifact(cluster, f"{name}:{tag}")
    except NotFound:
        return None


def taken(holder: Artifact, tag: str) -> Conflict:
    return Conflict(
        f"tag '{holder.name}:{tag}' names version {holder.digest[:12]}, with other content: choose "
        "another tag, or move it: corps tag --move",
        artifact=holder.name,
    )


def _without(ledger: Ledger, artifact: Artifact, tag: str) -> None:
    tags = tuple(one for one in artifact.tags if one != tag)
    ledger.save(msgspec.structs.replace(artifact, tags=tags))

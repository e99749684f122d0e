"""Secrets, sealed: what sets and deletes them, which launches may name them, who is handed them."""

from __future__ import annotations

from typing import assert_never

import msgspec

from corps.core.cluster import Cluster
from corps.core.ledger import Ledger
from corps.errors import Conflict, Invalid, NotFound
from corps.model.command import AnyCommand, Launch
from corps.model.instance import Desired
from corps.model.name import AttemptKey, InstanceId, WorkerName, check_name, did_you_mean
from corps.model.secret import (
    SECRETS_MAX,
    AnySecret,
    Clear,
    DeleteSecret,
    Sealed,
    Secret,
    SetSecret,
    names_of,
    variables_of,
)
from corps.model.spec import check_launch
from corps.model.trail import Deed, Outcome
from corps.wire.secret import Secrets, WantSecrets

SHOWN_MAX = 5
TOLD_MAX = 1_000


def rule(ledger: Ledger, command: AnySecret, by: str) -> None:
    """Carry it out. Raise what it must be refused for."""
    match command:
        case SetSecret():
            _set(ledger, command, by)
        case DeleteSecret():
            _delete(ledger, command, by)
        case _:
            assert_never(command)


def kept(command: AnyCommand) -> AnyCommand:
    """What the record of a command has: of a secret only its name, so that an old version, or one
    that was deleted, is nowhere."""
    if isinstance(command, SetSecret):
        return msgspec.structs.replace(command, content=None)
    return command


def next_version(cluster: Cluster, name: str) -> int:
    known = cluster.roll.secrets.get(name)
    return 1 if known is None else known.sealed.version + 1


def check_nameable(cluster: Cluster, command: Launch) -> None:
    """Raise Invalid for a launch that cannot be, NotFound when it names a secret that is none."""
    check_launch(command)
    uses = command.terms.secrets
    for variable in variables_of(uses):
        if variable in command.env:
            raise Invalid(f"variable {variable!r} is given twice, once as a secret", field="env")
    for name in names_of(uses):
        if name not in cluster.roll.secrets:
            raise NotFound(_missing(cluster, name), secret=name)


def users(cluster: Cluster) -> dict[str, list[InstanceId]]:
    """By secret, the instances that live, or are to be started again, and name it."""
    found: dict[str, list[InstanceId]] = {}
    for worker in cluster.workers:
        for instance in cluster.live_on(worker):
            for name in names_of(instance.launch.terms.secrets):
                found.setdefault(name, []).append(instance.id)
    return found


class Desk:
    """Hands secrets to the worker of an attempt that is to start, and only what its launch names.

    A worker may ask as often as it likes: that is told once per attempt.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told: dict[AttemptKey, None] = {}

    def wanted(self, worker: WorkerName, message: WantSecrets) -> None:
        ledger, key = self._ledger, message.key
        session = ledger.session_of[worker]
        instance = ledger.cluster.instances.get(key.rpartition("#")[0])
        is_theirs = instance is not None and (instance.worker, instance.key) == (worker, key)
        if instance is None or not is_theirs or instance.is_over:
            text = f"attempt {key[:80]!r} is none that {worker} is to start: it got no secret"
            self._tell(worker, key, Outcome.DENIED, text)
            ledger.send(session, Secrets(key=key, problem=text))
            return
        if instance.desired is not Desired.RUNNING:
            ledger.send(session, Secrets(key=key, problem="it is to end, not to start"))
            return
        names = names_of(instance.launch.terms.secrets)
        kept = ledger.cluster.roll.secrets
        missing = next((name for name in names if name not in kept), None)
        if missing is not None:
            ledger.send(session, Secrets(key=key, problem=_missing(ledger.cluster, missing)))
            return
        secrets = tuple(kept[name] for name in names)
        told = ", ".join(f"{secret.name} (version {secret.sealed.version})" for secret in secrets)
        if key not in self._told:
            ledger.happened("secrets", instance.id, f"handed to {worker}: {told}", worker)
        self._tell(worker, key, Outcome.DONE, told)
        ledger.reveal(session, key, secrets)

    def _tell(self, worker: WorkerName, key: AttemptKey, outcome: Outcome, text: str) -> None:
        if key in self._told:
            return
        if len(self._told) >= TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._told[key] = None
        address = self._ledger.cluster.workers[worker].address
        self._ledger.witness(
            Deed(
                who=worker,
                act="secrets",
                outcome=outcome,
                source=address,
                subject=key,
                detail=text,
            )
        )


def _set(ledger: Ledger, command: SetSecret, by: str) -> None:
    name, content = check_name("secret", command.name), command.content
    match content:
        case Sealed():
            pass
        case Clear() | None:
            raise Invalid("a secret is decided upon only when it is sealed", field="content")
        case _:
            assert_never(content)
    secrets = ledger.cluster.roll.secrets
    known, version = secrets.get(name), next_version(ledger.cluster, name)
    if content.version != version:
        raise Conflict(f"secret {name!r} was changed meanwhile: set it again", secret=name)
    if known is None and len(secrets) >= SECRETS_MAX:
        raise Conflict(f"there are {SECRETS_MAX} secrets: delete one first")
    ledger.save(
        Secret(
            name=name,
            sealed=content,
            created_at=ledger.now if known is None else known.created_at,
            created_by=by if known is None else known.created_by,
            changed_at=ledger.now,
            changed_by=by,
        )
    )
    ledger.happened("secret", name, f"version {version} set by {by}")


def _delete(ledger: Ledger, command: DeleteSecret, by: str) -> None:
    secret = ledger.cluster.roll.secrets.get(command.name)
    if secret is None:
        raise NotFound(_missing(ledger.cluster, command.name), secret=command.name[:80])
    named = users(ledger.cluster).get(secret.name, [])
    if named:
        more = f" and {len(named) - SHOWN_MAX} more" if len(named) > SHOWN_MAX else ""
        shown = ", ".join(map(repr, named[:SHOWN_MAX]))
        raise Conflict(
            f"secret {secret.name!r} is named by {shown}{more}: stop them first", secret=secret.name
        )
    ledger.drop(secret)
    ledger.happened("secret", secret.name, f"deleted by {by}")


def _missing(cluster: Cluster, name: str) -> str:
    hint = did_you_mean(name, cluster.roll.secrets) or "; set it first: corps secret set NAME"
    return f"no secret {name[:80]!r}{hint}"

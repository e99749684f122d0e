"""What operators say of a version of an artifact that is there already."""

from __future__ import annotations

import msgspec

from corps.core.ledger import Ledger
from corps.core.targets import find_artifact
from corps.errors import Conflict
from corps.model.command import Sign
from corps.model.signature import check_signature


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

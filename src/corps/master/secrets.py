"""Secrets at the edge of the master: sealed before anything is decided, and never shown."""

from __future__ import annotations

import blake3
import msgspec
from litestar import get
from litestar.datastructures import State

from corps.core.secrets import next_version, users
from corps.core.views import rfc3339
from corps.errors import Invalid
from corps.master.driver import MasterDriver
from corps.model.command import AnyCommand
from corps.model.secret import Clear, SecretView, SetSecret, check_content


def sealed(driver: MasterDriver, command: AnyCommand) -> tuple[AnyCommand, str]:
    """The command as it may be decided upon and stored, and what tells it from any other.

    Nothing may be decided between this and the command: it goes with the version that is next.
    """
    if not isinstance(command, SetSecret):
        return command, blake3.blake3(msgspec.json.encode(command)).hexdigest()
    if not isinstance(command.content, Clear):
        raise Invalid("a secret is sent as content of type 'clear'", field="content")
    name, value = command.name, command.content.value
    check_content(name, value)
    cluster, vault = driver.core.cluster, driver.vault
    version = next_version(cluster, name)
    content = vault.seal(name, version, value, is_first=not cluster.roll.secrets)
    # By a keyed hash: whoever has the store could else try values until one has this hash.
    body = vault.mark(msgspec.json.encode(command))
    return msgspec.structs.replace(command, content=content), body


@get("/v1/secrets", summary="Names and versions of secrets, never what is in them")
async def secrets(state: State) -> list[SecretView]:
    driver: MasterDriver = state.master.driver
    await driver.settled()
    cluster = driver.core.cluster
    named = users(cluster)
    return [
        SecretView(
            name=name,
            version=secret.sealed.version,
            created_at=rfc3339(secret.created_at),
            created_by=secret.created_by,
            changed_at=rfc3339(secret.changed_at),
            changed_by=secret.changed_by,
            used_by=tuple(named.get(name, ())),
        )
        for name, secret in sorted(cluster.roll.secrets.items())
    ]

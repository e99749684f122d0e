"""Blobs at the master that no artifact names: of a deleted artifact, or of a copy that broke off.

Those of a deleted artifact go at once. Those of a broken copy stay, so that they need not be sent
again, until an upload has no room. What an upload under way counts on is never removed.
"""

from __future__ import annotations

import asyncio
import logging

from corps.errors import CorpsError
from corps.master.driver import MasterDriver
from corps.master.http import load_manifest
from corps.model.artifact import Artifact
from corps.model.name import Digest
from corps.net.intake import Intake
from corps.store.blobs import BlobStore

_log = logging.getLogger("corps.master")


def intake(driver: MasterDriver, blobs: BlobStore) -> Intake:
    """Where uploads come in; it makes room by removing what is left of broken ones."""

    def make_room() -> None:
        _remove(driver, blobs, made)

    made = Intake(blobs, make_room)
    return made


def collect(driver: MasterDriver, blobs: BlobStore, intake: Intake, dropped: Artifact) -> None:
    """Remove, in a thread, the blobs of a deleted artifact that no other artifact names."""
    asyncio.get_running_loop().run_in_executor(None, _remove, driver, blobs, intake, dropped.digest)


def _remove(
    driver: MasterDriver, blobs: BlobStore, intake: Intake, artifact: Digest | None = None
) -> None:
    """Blobs of one manifest that is named no more, or all: every orphan."""
    try:
        with intake.removing() as held:
            named = [one.digest for one in list(driver.core.cluster.artifacts.values())]
            if artifact in named:
                return
            found = set(blobs.digests()) if artifact is None else _contents(blobs, artifact)
            found -= held
            for other in dict.fromkeys(named):
                found -= _contents(blobs, other)
            for blob in sorted(found):
                blobs.remove(blob)
    except CorpsError as error:
        _log.error("blobs that nobody needs stay at the master: %s", error.message)


def _contents(blobs: BlobStore, artifact: Digest) -> set[Digest]:
    return {file.digest for file in load_manifest(blobs, artifact).files} | {artifact}

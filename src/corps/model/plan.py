"""Copies before and while they travel: `corps copy --dry-run`, `corps progress`."""

from __future__ import annotations

import msgspec

from corps.model.artifact import Manifest
from corps.model.name import CommandId, Digest
from corps.model.view import View

PATHS_MAX = 20


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of an artifact that is not uploaded: `POST /v1/plan`."""

    name: str
    manifest: Manifest
    to: str = "all"


class PlanView(View, frozen=True, kw_only=True):
    """What would travel to one worker, or to the master itself (`worker` null).

    Each content once, uncompressed: compression, deltas and what broke off earlier make it less.
    `paths` are the first of the files that would be sent. `problem`: why nothing would come of it.
    """

    worker: str | None
    artifact: str
    digest: Digest
    bytes_missing: int
    bytes_total: int
    files_missing: int
    files_total: int
    paths: tuple[str, ...] = ()
    problem: str | None = None


class ProgressView(View, frozen=True, kw_only=True):
    """A copy under way to one worker. `seconds` since it was asked for; the rest as in CopyView."""

    artifact: str
    digest: Digest
    worker: str
    by: str
    command: CommandId
    seconds: float
    bytes_sent: int
    bytes_from_peers: int
    bytes_done: int
    bytes_total: int
    result: str

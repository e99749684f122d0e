"""Master <-> worker: is what is installed there still what was copied? It is read, byte by byte."""

from __future__ import annotations

import msgspec

from corps.model.finding import Finding
from corps.model.name import Digest
from corps.wire.message import Message


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Of one artifact: at most FINDINGS_MAX findings, and how many more; `error`: it could not be
    read, or is not there."""

    digest: Digest
    findings: tuple[Finding, ...] = ()
    more: int = 0
    error: str | None = None


class Verify(Message, frozen=True, kw_only=True):
    """Hold these artifacts, and what runs of them, against their manifests; change nothing."""

    ask: int
    digests: tuple[Digest, ...]


class Verified(Message, frozen=True, kw_only=True):
    """Answer to Verify; a part for each artifact, as it is done."""

    ask: int
    checks: tuple[Checked, ...]
    is_last: bool

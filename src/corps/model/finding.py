"""What was found wrong with an artifact where it is installed: drift from its manifest."""

from __future__ import annotations

from enum import StrEnum

import msgspec

FINDINGS_MAX = 200  # of one artifact on one worker; more are counted


class Drift(StrEnum):
    DAMAGED = "damaged"  # other bytes, and nobody wrote them since it was installed: the disk did
    EDITED = "edited"  # written to, replaced, or given other rights since
    MISSING = "missing"
    EXTRA = "extra"  # of no manifest
    DELETED = "deleted"  # what runs is not in the tree any more


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. `path` is within the artifact, empty for its manifest; of a process its file."""

    drift: Drift
    path: str
    text: str

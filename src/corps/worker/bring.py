"""Make an artifact whole on this worker, and every byte of it verified: whatever was there before.

Blocking, for a thread of the worker daemon.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from corps.errors import Unavailable
from corps.model.finding import Drift, Finding
from corps.model.name import Digest
from corps.store.soundness import Soundness
from corps.store.trees import Trees
from corps.wire.output import Note
from corps.wire.worker import Installed
from corps.worker.install import InstallReport

PASSES_MAX = 3
DRIFT = "drift"
NAMED_MAX = 3


class Brought(msgspec.Struct, frozen=True):
    """What travelled, and what had been wrong with what was here."""

    report: InstallReport
    findings: tuple[Finding, ...] = ()


def bring(
    digest: Digest, install: Callable[[], InstallReport], soundness: Soundness, trees: Trees
) -> Brought:
    """`install` fetches what is missing and builds the tree. Raise as it does, or Unavailable when
    the disk damages what it was just given."""
    if soundness.is_trusted(digest):
        return Brought(install())
    reports: list[InstallReport] = []
    found: tuple[Finding, ...] = ()
    for _ in range(PASSES_MAX):
        wrong = drifted(soundness.repair(digest)) if trees.stands(digest) else None
        found += wrong or ()
        reports.append(install())
        if wrong == () or (wrong is None and _is_all_new(digest, reports[-1], trees)):
            soundness.trust(digest)
            return Brought(_sum(reports), found)
    raise Unavailable(
        f"artifact {digest[:12]} is damaged again after it was repaired ({found[-1].text}: "
        f"{found[-1].path!r}): look at the disk and the memory of this worker"
    )


def drifted(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that matter to what is executed: what nobody copied is left alone."""
    return tuple(finding for finding in findings if finding.drift is not Drift.EXTRA)


def note_of(digest: Digest, findings: tuple[Finding, ...], end: str) -> Note:
    """For operators, of drift that was found before a launch."""
    named = [f"{finding.path or 'it'!r} {finding.text}" for finding in findings[:NAMED_MAX]]
    more = len(findings) - len(named)
    text = "; ".join(named) + (f"; and {more} more" if more else "")
    return Note(kind=DRIFT, subject=None, message=f"artifact {digest[:12]}: {text}: {end}")


def installed(digest: Digest, report: InstallReport, seconds: float) -> Installed:
    return Installed(
        digest=digest,
        bytes_sent=report.bytes_sent,
        bytes_from_peers=report.bytes_from_peers,
        bytes_total=report.bytes_total,
        files_sent=report.files_sent,
        files_total=report.files_total,
        seconds=seconds,
    )


def _is_all_new(digest: Digest, report: InstallReport, trees: Trees) -> bool:
    """Every byte was hashed as it arrived, so none of it needs to be read again."""
    blobs = {entry.digest for entry in trees.manifest(digest).files}
    return report.files_sent >= len(blobs)


def _sum(reports: list[InstallReport]) -> InstallReport:
    return msgspec.structs.replace(
        reports[-1],
        bytes_sent=sum(report.bytes_sent for report in reports),
        bytes_from_peers=sum(report.bytes_from_peers for report in reports),
        files_sent=sum(report.files_sent for report in reports),
    )

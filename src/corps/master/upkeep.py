"""Questions about artifacts over their life: are they still what was copied, what may go, and what
room do they take. And the two things that are done at the master alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post
from litestar.datastructures import State

from corps.core import collect
from corps.core.candidates import gone
from corps.core.targets import find_artifact
from corps.core.views import rfc3339
from corps.errors import Invalid, NotFound
from corps.master.shelf import load_manifest
from corps.model.access import Caller
from corps.model.artifact import Artifact, FileEntry
from corps.model.finding import FINDINGS_MAX, Drift, Finding
from corps.model.name import Digest, WorkerName
from corps.model.trail import Deed, Outcome
from corps.model.upkeep import (
    DRIFTED,
    WHOLE,
    DriftView,
    GarbagePlan,
    GarbageView,
    Order,
    RoomView,
)
from corps.model.view import ArtifactView
from corps.wire.drift import Checked, Verified, Verify

if TYPE_CHECKING:
    from corps.master.http import Master

VERIFY_MAX_S = 3_600.0
SIZE_MAX_BYTES = 1 << 60


@get("/v1/artifacts", summary="What is copied, where, and its files")
async def artifacts(state: State) -> list[ArtifactView]:
    master = _of(state)
    await master.driver.settled()
    found = list(master.driver.core.cluster.artifacts.values())
    return await asyncio.to_thread(
        _artifact_rows, master, [(one, master.driver.core.holders(one.digest)) for one in found]
    )


@get("/v1/artifacts/drift", summary="Whether what was copied is still what it was, read whole")
async def drift(state: State, artifact: str = "") -> list[DriftView]:
    """Of one artifact, or of all. The first row of each is the master itself."""
    master = _of(state)
    await master.driver.settled()
    cluster = master.driver.core.cluster
    chosen = [find_artifact(cluster, artifact)] if artifact else list(cluster.artifacts.values())
    places = {
        (one.name, one.digest): sorted({*one.workers, *_running(master, one)}) for one in chosen
    }
    by_worker: dict[WorkerName, dict[Digest, None]] = {}
    for (_, digest), workers in places.items():
        for worker in workers:
            by_worker.setdefault(worker, {})[digest] = None
    answers = await asyncio.gather(
        *(_ask(master, worker, tuple(digests)) for worker, digests in by_worker.items())
    )
    said = dict(zip(by_worker, answers, strict=True))
    rows: list[DriftView] = []
    for (name, digest), workers in places.items():
        findings = await master.shelf.examine(digest)
        here = Checked(
            digest=digest,
            findings=findings[:FINDINGS_MAX],
            more=max(0, len(findings) - FINDINGS_MAX),
        )
        rows.append(_row(None, name, here))
        rows += [_row(worker, name, said[worker][digest]) for worker in workers]
    return rows


@get("/v1/artifacts/garbage", summary="Which versions may go, and why the others stay")
async def garbage(state: State, budget: int | None = None, newest: bool = False) -> GarbagePlan:
    master = _of(state)
    await master.driver.settled()
    if budget is not None and not 0 <= budget <= SIZE_MAX_BYTES:
        raise Invalid(f"budget is {budget} bytes: from 0 to {SIZE_MAX_BYTES}", field="budget")
    contents = await master.shelf.contents()
    count, size_bytes = await master.shelf.orphans(remove=False)
    cluster = master.driver.core.cluster
    verdicts, stored, left = collect.plan(cluster, contents, budget, with_newest=newest)
    return GarbagePlan(
        versions=tuple(map(_garbage_row, verdicts)),
        stored_bytes=stored,
        left_bytes=left,
        budget_bytes=budget,
        orphan_count=count,
        orphan_bytes=size_bytes,
    )


@get("/v1/artifacts/room", summary="What room artifacts take, at the master and on each worker")
async def room(state: State) -> list[RoomView]:
    master = _of(state)
    await master.driver.settled()
    contents = await master.shelf.contents()
    core = master.driver.core
    versions = list(core.cluster.artifacts.values())
    rows = [_room_row(None, [one.digest for one in versions], contents)]
    for worker in sorted(core.cluster.workers):
        here = [one for one in versions if worker in core.holders(one.digest)]
        rows.append(_room_row(worker, [one.digest for one in here], contents))
    return rows


@post("/v1/artifacts/quarantine", status_code=200, summary="Put away the master's damaged blobs")
async def quarantine(request: Request[Any, Any, Any], state: State, data: Order) -> dict[str, int]:
    master = _of(state)
    found = find_artifact(master.driver.core.cluster, data.artifact)
    await _witness(master, request.user, "quarantine", data.artifact)
    return {"blobs": await master.shelf.quarantine(found.digest)}


@post("/v1/artifacts/orphans", status_code=200, summary="Remove old blobs that no version names")
async def orphans(request: Request[Any, Any, Any], state: State, data: Order) -> dict[str, int]:
    master = _of(state)
    await _witness(master, request.user, "orphans", "")
    count, size_bytes = await master.shelf.orphans(remove=True)
    return {"blobs": count, "bytes": size_bytes}


async def _witness(master: Master, caller: Caller, act: str, subject: str) -> None:
    """It is in the audit trail, then it is done."""
    master.driver.witness(
        Deed(
            who=caller.name,
            act=act,
            outcome=Outcome.ACCEPTED,
            source=caller.source,
            subject=subject,
        )
    )
    await master.driver.settled()


def _of(state: State) -> Master:
    master: Master = state.master
    return master


def _artifact_rows(
    master: Master, found: list[tuple[Artifact, tuple[WorkerName, ...]]]
) -> list[ArtifactView]:
    """One whose manifest cannot be read is shown without files: `drift` says what is wrong."""
    files: dict[Digest, tuple[FileEntry, ...]] = {}
    for artifact, _ in found:
        with contextlib.suppress(NotFound, Invalid):
            files[artifact.digest] = load_manifest(master.blobs, artifact.digest).files
    names = Counter(blob for of in files.values() for blob in {file.digest for file in of})
    return [
        ArtifactView(
            name=artifact.name,
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            files=files.get(artifact.digest, ()),
            workers=tuple(name for name in artifact.workers if name in holders),
            tags=artifact.tags,
            created_at=rfc3339(artifact.created_at),
            unique_bytes=_unique_bytes(files.get(artifact.digest), names),
        )
        for artifact, holders in found
    ]


def _unique_bytes(files: tuple[FileEntry, ...] | None, names: Counter[Digest]) -> int | None:
    if files is None:
        return None
    return sum({file.digest: file.size_bytes for file in files if names[file.digest] == 1}.values())


def _running(master: Master, artifact: Artifact) -> Iterable[WorkerName]:
    """Where something of it lives, wanted there or not."""
    instances = master.driver.core.cluster.instances.values()
    return [i.worker for i in instances if i.is_live and i.launch.digest == artifact.digest]


async def _ask(
    master: Master, worker: WorkerName, digests: tuple[Digest, ...]
) -> dict[Digest, Checked]:
    parts = await master.driver.ask(
        worker, lambda ask: Verify(ask=ask, digests=digests), VERIFY_MAX_S
    )
    answered = [part for part in parts or () if isinstance(part, Verified)]
    found = {checked.digest: checked for part in answered for checked in part.checks}
    silent = gone(master.driver.core.cluster, worker) if parts is None else "it gave no answer"
    return {digest: found.get(digest) or Checked(digest=digest, error=silent) for digest in digests}


def _row(worker: WorkerName | None, name: str, checked: Checked) -> DriftView:
    is_drift = any(finding.drift is not Drift.EXTRA for finding in checked.findings)
    return DriftView(
        worker=worker,
        artifact=name,
        digest=checked.digest,
        result=checked.error or (DRIFTED if is_drift or checked.more else WHOLE),
        findings=tuple(map(_bounded, checked.findings[:FINDINGS_MAX])),
        more=checked.more,
    )


def _bounded(finding: Finding) -> Finding:
    """What a worker says is not believed to be short."""
    return Finding(drift=finding.drift, path=finding.path[:1_024], text=finding.text[:1_000])


def _garbage_row(verdict: collect.Verdict) -> GarbageView:
    return GarbageView(
        artifact=verdict.artifact.name,
        digest=verdict.artifact.digest,
        tags=verdict.artifact.tags,
        size_bytes=verdict.artifact.size_bytes,
        frees_bytes=verdict.frees_bytes,
        used_at=rfc3339(verdict.used_at),
        kept_for=verdict.kept_for,
    )


def _room_row(
    worker: WorkerName | None, versions: list[Digest], contents: dict[Digest, dict[Digest, int]]
) -> RoomView:
    known = [contents[digest] for digest in dict.fromkeys(versions) if digest in contents]
    named_bytes = sum(size for sizes in known for size in sizes.values())
    stored = {blob: size for sizes in known for blob, size in sizes.items()}
    stored_bytes = sum(stored.values())
    return RoomView(
        worker=worker,
        versions=len(versions),
        named_bytes=named_bytes,
        stored_bytes=stored_bytes,
        ratio=round(named_bytes / stored_bytes, 3) if stored_bytes else None,
    )

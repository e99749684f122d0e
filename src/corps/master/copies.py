"""Copies before and while they travel: what one would send, and how far those under way are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from blake3 import blake3
from litestar import get, post
from litestar.datastructures import State

from corps.core.master import Destination
from corps.errors import Invalid, NotFound
from corps.master import fitness
from corps.model.artifact import (
    MANIFEST_MAX_BYTES,
    Manifest,
    check_manifest,
    decode_manifest,
    encode_manifest,
)
from corps.model.check import check_of
from corps.model.command import Copy
from corps.model.name import Digest
from corps.model.plan import PATHS_MAX, PlanRequest, PlanView, ProgressView
from corps.model.view import CopyView
from corps.store.blobs import BlobStore

if TYPE_CHECKING:
    from corps.master.http import Master


@post(
    "/v1/plan",
    status_code=200,
    summary="What a copy would send",
    request_max_body_size=MANIFEST_MAX_BYTES,
)
async def plan(state: State, data: PlanRequest) -> list[PlanView]:
    """The first row is the master itself: what an operator would have to upload."""
    master = _of(state)
    await master.driver.settled()
    digest = await asyncio.to_thread(_check, data.manifest)
    question = check_of(data.name, digest, data.manifest)
    await fitness.check(master.driver, question, data.to)  # the core remembers what they say
    destinations = master.driver.core.destinations(Copy(name=data.name, digest=digest, to=data.to))
    return await asyncio.to_thread(_rows, master.blobs, data, digest, destinations)


@get("/v1/progress/{id:str}", summary="How far a copy is")
async def progress(state: State, id: str) -> list[CopyView]:
    return list(_of(state).driver.core.progress(id))


@get("/v1/progress", summary="All copies that are under way")
async def under_way(state: State) -> list[ProgressView]:
    driver = _of(state).driver
    now = driver.clock()
    return [
        ProgressView(
            artifact=row.artifact,
            digest=row.digest,
            worker=row.worker,
            by=record.by,
            command=record.id,
            seconds=max(0.0, now - record.at),
            bytes_sent=row.bytes_sent,
            bytes_from_peers=row.bytes_from_peers,
            bytes_done=row.bytes_done,
            bytes_total=row.bytes_total,
            result=row.result,
        )
        for record, row in driver.core.copies()
    ]


def _of(state: State) -> Master:
    master: Master = state.master
    return master


def _check(manifest: Manifest) -> Digest:
    check_manifest(manifest)
    return blake3(encode_manifest(manifest)).hexdigest()


def _rows(
    blobs: BlobStore, request: PlanRequest, digest: Digest, destinations: Iterable[Destination]
) -> list[PlanView]:
    """Workers that have the same artifacts have the same files: each such group is looked at once.

    Of an artifact that is there only a part is known to nobody but its worker: it counts as absent.
    """
    manifest = request.manifest
    first_of = {file.digest: file for file in reversed(manifest.files)}
    contents: dict[Digest, frozenset[Digest]] = {}
    missing_of: dict[tuple[Digest, ...], list[Digest]] = {}

    def row(worker: str | None, missing: list[Digest], problem: str | None) -> PlanView:
        return PlanView(
            worker=worker,
            artifact=request.name,
            digest=digest,
            bytes_missing=sum(first_of[blob].size_bytes for blob in missing),
            bytes_total=sum(file.size_bytes for file in manifest.files),
            files_missing=len(missing),
            files_total=len(manifest.files),
            paths=tuple(sorted(first_of[blob].path for blob in missing)[:PATHS_MAX]),
            problem=problem,
        )

    rows = [row(None, list(blobs.missing(first_of)), None)]
    for worker, installed, problem in destinations:
        if installed not in missing_of:
            for one in installed:
                if one not in contents:
                    contents[one] = _contents(blobs, one)
            there = frozenset[Digest]().union(*(contents[one] for one in installed))
            missing_of[installed] = [blob for blob in first_of if blob not in there]
        rows.append(row(worker, missing_of[installed], problem))
    return rows


def _contents(blobs: BlobStore, artifact: Digest) -> frozenset[Digest]:
    try:
        manifest = decode_manifest(blobs.read_bytes(artifact, MANIFEST_MAX_BYTES))
    except (NotFound, Invalid):
        return frozenset()  # deleted here, and its worker has not heard of it yet
    return frozenset(file.digest for file in manifest.files)

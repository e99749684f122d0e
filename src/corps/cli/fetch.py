"""A log brought back as a file: byte for byte, and where it broke off when it is tried again.

Each stream is collected in a hidden file beside the wanted one, whose name says of which attempt
it is and at which byte it begins; only a whole log gets the wanted name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from corps.cli import render
from corps.client import Client, LogSlice
from corps.errors import CorpsError, Failed
from corps.model.view import InstanceView

SUFFIX = ".part"


def fetch_log(
    client: Client, row: InstanceView, attempt: int, streams: Sequence[str], wanted: Path
) -> int:
    """Write the log of `row`, one stream after the other, to `wanted`; its size in bytes."""
    slices = [LogSlice(instance=row.id, stream=stream, attempt=attempt) for stream in streams]
    try:
        parts = [_fetch(client, row, slice, wanted) for slice in slices]
        filled = [part for part in parts if part.stat().st_size] or parts[:1]
        whole = filled[0]
        if len(filled) > 1:
            whole = wanted.with_name(f".{wanted.name}{SUFFIX}")
            with whole.open("wb") as file:
                for part in filled:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, file)
        whole.replace(wanted)
        for part in parts:
            part.unlink(missing_ok=True)
        return wanted.stat().st_size
    except OSError as error:
        raise Failed(f"cannot write '{wanted}': {os.strerror(error.errno or 0).lower()}") from error


def _fetch(client: Client, row: InstanceView, slice: LogSlice, wanted: Path) -> Path:
    """One stream, whole as it was when this began, in a file beside `wanted`."""
    stem = f".{wanted.name}.{row.id}.{slice.attempt}.{row.started_at}.{slice.stream}."
    found = _begun(wanted.parent, stem)
    begin = sum(found) if found else 0
    chunk, data = client.log(msgspec.structs.replace(slice, offset=begin))
    if (
        chunk.offset != begin or begin > chunk.size_bytes
    ):  # what we have does not join what there is
        found = None
        chunk, data = client.log(slice)
    first = found[0] if found else chunk.offset
    if first:
        why = f": {chunk.why}" if chunk.why else ""
        render.note(f"corps: {row.id} {slice.stream}: the oldest {first} bytes are gone{why}")
    part = wanted.with_name(f"{stem}{first}{SUFFIX}")
    end = chunk.size_bytes
    with part.open("ab" if found else "wb") as file:
        try:
            while data:
                file.write(data)
                if chunk.next_offset >= end:
                    break
                chunk, data = client.log(msgspec.structs.replace(slice, offset=chunk.next_offset))
        except CorpsError:
            render.note(f"corps: {file.tell()} bytes are kept in '{part}': repeat to go on")
            raise
    return part


def _begun(directory: Path, stem: str) -> tuple[int, int] | None:
    """First byte and size of what an earlier try left."""
    for path in directory.iterdir():
        first = path.name.removeprefix(stem).removesuffix(SUFFIX)
        if path.name == f"{stem}{first}{SUFFIX}" and first.isascii() and first.isdigit():
            return int(first), path.stat().st_size
    return None

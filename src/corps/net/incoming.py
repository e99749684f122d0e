"""What follows a Sending, turned back into the bytes of the blob."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, assert_never

from corps.errors import NotFound, ProtocolError
from corps.model.name import Digest
from corps.net.channel import Channel
from corps.net.encode import (
    BASES_MAX,
    PATCH_BYTES,
    REGION_MAX_BYTES,
    WIRE_MAX_BYTES,
    OpenBlob,
    decode,
)
from corps.wire.bulk import BulkAnswer, Encoding, Sending, Want

OnArrived: TypeAlias = Callable[[int, int], None]
Write: TypeAlias = Callable[[bytes | memoryview], None]


class Asking(NamedTuple):
    """How blobs are asked for. `bases`: for a blob, similar ones that are here."""

    encodings: tuple[Encoding, ...] = ()
    bases: Mapping[Digest, tuple[Digest, ...]] = {}
    rate_bytes_s: int | None = None
    artifact: Digest | None = None

    def want(self, digest: Digest, offset: int) -> Want:
        bases = self.bases.get(digest, ())[:BASES_MAX]
        return Want(
            digest=digest,
            offset=offset,
            encodings=self.encodings if bases else self._plain,
            bases=bases,
            rate_bytes_s=self.rate_bytes_s,
            artifact=self.artifact,
        )

    @property
    def _plain(self) -> tuple[Encoding, ...]:
        return tuple(one for one in self.encodings if one is not Encoding.PATCH)


PLAIN = Asking()


def ignore_arrived(_wire_bytes: int, _bytes: int) -> None:
    """For who does not watch the progress."""


def receive_range(
    channel: Channel[BulkAnswer],
    sending: Sending,
    want: Want,
    open_base: OpenBlob,
    write: Write,
    on_arrived: OnArrived = ignore_arrived,
) -> None:
    """Take the bytes of one Sending. Raise ProtocolError for what was not asked for, Invalid for
    what is damaged, NotFound when the base has gone meanwhile."""
    length = _check_length(sending)
    wire_bytes = length if sending.wire_bytes is None else sending.wire_bytes
    if sending.encoding is Encoding.RAW:
        if wire_bytes != length:
            raise ProtocolError(f"{length} raw bytes cannot travel as {wire_bytes}")
        for part in channel.receive_raw(length):
            write(part)
            on_arrived(len(part), len(part))
        return
    if (
        sending.encoding not in want.encodings
        or not 0 < wire_bytes <= WIRE_MAX_BYTES
        or length > PATCH_BYTES
    ):
        raise ProtocolError(f"not to be taken: {sending}")
    data = bytearray()
    for part in channel.receive_raw(wire_bytes):
        data += part
        on_arrived(len(part), 0)
    write(_decoded(sending, bytes(data), length, want, open_base))
    on_arrived(0, length)


def _check_length(sending: Sending) -> int:
    left = sending.size_bytes - sending.offset
    length = left if sending.length is None else sending.length
    if not 0 <= length <= left or (left and not length):
        raise ProtocolError(f"{length} bytes of the {left} that are left: {sending}")
    return length


def _decoded(sending: Sending, data: bytes, length: int, want: Want, open_base: OpenBlob) -> bytes:
    match sending.encoding:
        case Encoding.RAW:
            return data
        case Encoding.ZSTD:
            return decode(data, length)
        case Encoding.PATCH:
            return decode(data, length, _region(sending, want, open_base))
        case _:
            assert_never(sending.encoding)


def _region(sending: Sending, want: Want, open_base: OpenBlob) -> bytes:
    if (
        sending.base is None
        or sending.base not in want.bases
        or sending.base_offset < 0
        or not 0 < sending.base_length <= REGION_MAX_BYTES
    ):
        raise ProtocolError(f"a patch of something else: {sending}")
    fd = open_base(sending.base)
    try:
        region = os.pread(fd, sending.base_length, sending.base_offset)
    finally:
        os.close(fd)
    if len(region) < sending.base_length:
        raise NotFound(f"blob {sending.base!r} is not as long as it was")
    return region

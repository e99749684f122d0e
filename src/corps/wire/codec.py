"""Frames: a 4-byte big-endian length, then one msgpack message. No IO here.

Every connection opens with an 8-byte preface that says what it carries, so a stranger is known by
its first bytes.
"""

from __future__ import annotations

import struct
from typing import Generic, TypeVar

import msgspec

from corps.errors import ProtocolError

CONTROL_PREFACE = b"CORPS\x00C1"
BULK_PREFACE = b"CORPS\x00B1"
SWARM_PREFACE = b"CORPS\x00S1"
PREFACE_BYTES = 8
PROTOCOL_VERSION = 1
FRAME_MAX_BYTES = 1 << 20
BUFFER_BYTES = 64 << 10
IDLE_BUFFER_BYTES = 2 << 10
HEADER = struct.Struct(">I")

Message = TypeVar("Message")
_ENCODER = msgspec.msgpack.Encoder()


def encode_frame(message: object) -> bytes:
    """One frame. Raise ProtocolError when the message is larger than a frame may be."""
    frame = bytearray(HEADER.size)
    _ENCODER.encode_into(message, frame, HEADER.size)
    length = len(frame) - HEADER.size
    if length > FRAME_MAX_BYTES:
        raise ProtocolError(
            f"{type(message).__name__} of {length} bytes: at most {FRAME_MAX_BYTES}"
        )
    HEADER.pack_into(frame, 0, length)
    return bytes(frame)


def frame_length(buffer: bytearray, start: int = 0, frame_max_bytes: int = FRAME_MAX_BYTES) -> int:
    """The length in the header at `start`; raise ProtocolError when no frame may have it."""
    (length,) = HEADER.unpack_from(buffer, start)
    if length == 0:
        raise ProtocolError("empty frame")
    if length > frame_max_bytes:
        raise ProtocolError(f"frame of {length} bytes: at most {frame_max_bytes}")
    return int(length)


def decode_payload(decoder: msgspec.msgpack.Decoder[Message], payload: memoryview) -> Message:
    """One message; `payload` is released. Raise ProtocolError for anything else."""
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"cannot decode a message: {error}") from error
    finally:
        payload.release()


class FrameDecoder(Generic[Message]):
    """Bytes in any pieces -> messages, copying each byte once.

    Use as an `asyncio.BufferedProtocol` does: write into `get_buffer()`, then `advance(count)`.
    The buffer never outgrows one frame; a length over the limit is refused before any allocation.
    """

    def __init__(self, union: object, frame_max_bytes: int = FRAME_MAX_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)
        self._frame_max_bytes = frame_max_bytes
        self._buffer = bytearray(IDLE_BUFFER_BYTES)
        self._filled = 0

    @property
    def is_mid_frame(self) -> bool:
        """The peer owes the rest of a frame."""
        return self._filled > 0

    def get_buffer(self) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def advance(self, count: int) -> list[Message]:
        """The messages that the `count` bytes just written complete; raise ProtocolError."""
        self._filled += count
        messages: list[Message] = []
        start = 0
        view = memoryview(self._buffer)
        try:
            while self._filled - start >= HEADER.size:
                length = frame_length(self._buffer, start, self._frame_max_bytes)
                end = start + HEADER.size + length
                if end > self._filled:
                    break
                messages.append(decode_payload(self._decoder, view[start + HEADER.size : end]))
                start = end
        finally:
            view.release()
        self._make_room(start)
        return messages

    def _make_room(self, start: int) -> None:
        rest = self._filled - start
        # Thousands of connections that only beat keep a small buffer; one that fills it gets more.
        is_busy = self._filled > IDLE_BUFFER_BYTES or self._filled == len(self._buffer)
        wanted = BUFFER_BYTES if is_busy else IDLE_BUFFER_BYTES
        if rest >= HEADER.size:
            length = frame_length(self._buffer, start, self._frame_max_bytes)
            wanted = max(wanted, HEADER.size + length)
        if len(self._buffer) != wanted:
            grown = bytearray(wanted)
            grown[:rest] = self._buffer[start : self._filled]
            self._buffer = grown
        elif start:
            self._buffer[:rest] = self._buffer[start : self._filled]
        self._filled = rest

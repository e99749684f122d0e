"""Pieces: what a large blob is cut into, so that it can come from many sides and in any order.

A piece list is one BLAKE3 digest of 32 bytes after the other; a bitmap has a bit for each piece,
the lowest bit of the first byte being that of piece 0.
"""

from __future__ import annotations

from corps.errors import Invalid

PIECE_BYTES = 512 << 10
PIECE_DIGEST_BYTES = 32


def piece_count(size_bytes: int) -> int:
    return -(-size_bytes // PIECE_BYTES)


def piece_span(index: int, size_bytes: int) -> tuple[int, int]:
    """Offset and length of a piece of a blob. Raise Invalid when it has no such piece."""
    if not 0 <= index < piece_count(size_bytes):
        raise Invalid(f"no piece {index} in a blob of {size_bytes} bytes", field="piece")
    offset = index * PIECE_BYTES
    return offset, min(PIECE_BYTES, size_bytes - offset)


def check_pieces(pieces: bytes, size_bytes: int) -> bytes:
    """Return the piece list if it is as long as a blob of this size asks for."""
    if len(pieces) != PIECE_DIGEST_BYTES * piece_count(size_bytes):
        raise Invalid(
            f"a piece list of {len(pieces)} bytes for a blob of {size_bytes}", field="pieces"
        )
    return pieces


def has_piece(bitmap: bytes | bytearray, index: int) -> bool:
    return index >> 3 < len(bitmap) and bool(bitmap[index >> 3] >> (index & 7) & 1)


def add_piece(bitmap: bytearray, index: int) -> None:
    bitmap[index >> 3] |= 1 << (index & 7)


def empty_bitmap(size_bytes: int) -> bytearray:
    return bytearray(-(-piece_count(size_bytes) // 8))


def full_bitmap(size_bytes: int) -> bytearray:
    count = piece_count(size_bytes)
    return bytearray(((1 << count) - 1).to_bytes(-(-count // 8), "little"))

"""Frames: any pieces, any bytes (FAULTS B007 to B030)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import ProtocolError
from corps.wire.bulk import BulkRequest, Missing, Want
from corps.wire.codec import (
    BUFFER_BYTES,
    FRAME_MAX_BYTES,
    HEADER,
    FrameDecoder,
    encode_frame,
)
from corps.wire.worker import FromWorker, Heartbeat, LogRead, Progress

DIGEST = "0" * 64


def feed(decoder: FrameDecoder[FromWorker], data: bytes) -> list[FromWorker]:
    """As a BufferedProtocol does: as much as the buffer takes, again and again."""
    messages: list[FromWorker] = []
    rest = memoryview(data)
    while rest:
        with decoder.get_buffer() as buffer:
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
        messages += decoder.advance(count)
        rest = rest[count:]
    return messages


def a_decoder() -> FrameDecoder[FromWorker]:
    return FrameDecoder(FromWorker)


def a_log_read(size_bytes: int) -> LogRead:
    return LogRead(ask=1, offset=0, data=b"x" * size_bytes, size_bytes=size_bytes, is_final=False)


def a_log_read_of_frame(frame_bytes: int) -> LogRead:
    """One whose message has exactly this length."""
    guess = a_log_read(frame_bytes - 200)
    spare = frame_bytes - (len(encode_frame(guess)) - HEADER.size)
    message = msgspec.structs.replace(guess, data=guess.data + b"x" * spare)
    assert len(encode_frame(message)) - HEADER.size == frame_bytes
    return message


MESSAGES = [
    Heartbeat(seq=1),
    Progress(digest=DIGEST, bytes_sent=5, bytes_total=9),
    a_log_read(300),
    Heartbeat(seq=2**63),
]
STREAM = b"".join(encode_frame(message) for message in MESSAGES)


@pytest.mark.parametrize("offset", range(len(STREAM) + 1))
def test_a_stream_split_anywhere_gives_the_same_messages(offset: int) -> None:
    decoder = a_decoder()
    assert feed(decoder, STREAM[:offset]) + feed(decoder, STREAM[offset:]) == MESSAGES
    assert not decoder.is_mid_frame


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_a_stream_in_any_pieces_gives_the_same_messages(sizes: list[int]) -> None:
    decoder, messages, start = a_decoder(), [], 0
    while start < len(STREAM):
        for size in sizes:
            messages += feed(decoder, STREAM[start : start + size])
            start += size
    assert messages == MESSAGES


def test_a_decoder_knows_that_it_waits_for_the_rest() -> None:
    decoder = a_decoder()
    for piece in (STREAM[:2], STREAM[2:7]):
        assert feed(decoder, piece) == []
        assert decoder.is_mid_frame


def test_a_thousand_frames_in_one_piece_come_in_order() -> None:
    sent: list[FromWorker] = [Heartbeat(seq=seq) for seq in range(1000)]
    assert feed(a_decoder(), b"".join(map(encode_frame, sent))) == sent


@pytest.mark.parametrize("size", [BUFFER_BYTES - 100, BUFFER_BYTES, 3 * BUFFER_BYTES])
def test_a_large_frame_between_small_ones_is_whole(size: int) -> None:
    sent: list[FromWorker] = [Heartbeat(seq=1), a_log_read(size), Heartbeat(seq=2)]
    decoder = a_decoder()
    assert feed(decoder, b"".join(map(encode_frame, sent))) == sent
    assert len(decoder.get_buffer()) <= BUFFER_BYTES, "the large buffer is given back"


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="empty frame"):
        feed(a_decoder(), HEADER.pack(0))


@pytest.mark.parametrize("length", [FRAME_MAX_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_any_allocation(length: int) -> None:
    decoder = a_decoder()
    with pytest.raises(ProtocolError, match=f"frame of {length} bytes: at most {FRAME_MAX_BYTES}"):
        feed(decoder, HEADER.pack(length))
    assert len(decoder.get_buffer()) <= BUFFER_BYTES


def test_a_length_over_the_limit_is_refused_behind_a_good_frame() -> None:
    with pytest.raises(ProtocolError):
        feed(a_decoder(), encode_frame(Heartbeat(seq=1)) + HEADER.pack(2**31) + b"abc")


def test_a_frame_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    largest = a_log_read_of_frame(FRAME_MAX_BYTES)
    assert feed(a_decoder(), encode_frame(largest)) == [largest]
    with pytest.raises(ProtocolError, match=f"at most {FRAME_MAX_BYTES}"):
        encode_frame(msgspec.structs.replace(largest, data=largest.data + b"x"))


def test_the_largest_question_fits_into_a_frame() -> None:
    digests = tuple(f"{number:064x}" for number in range(10_000))
    assert len(encode_frame(Missing(digests=digests))) < FRAME_MAX_BYTES


def framed(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


ENCODE = msgspec.msgpack.encode
HOSTILE = {
    "nesting": b"\x91" * 100_000,
    "nesting in an unknown field": b"\x82\xa4type\xa9heartbeat\xa1x" + b"\x91" * 100_000,
    "nested maps": b"\x82\xa4type\xa9heartbeat\xa1x" + b"\x81\xa1a" * 300_000 + b"\x01",
    "a list that claims 2**32-1": b"\x82\xa4type\xa7changed\xa7reports\xdd\xff\xff\xff\xff",
    "a map that claims 2**32-1": b"\xdf\xff\xff\xff\xff",
    "bytes that claim 2**32-1": b"\xc6\xff\xff\xff\xff",
    "no msgpack": b"\xc1",
    "cut": ENCODE({"type": "heartbeat", "seq": 1})[:-1],
    "rest": ENCODE({"type": "heartbeat", "seq": 1}) + b"\x01",
    "bool for int": ENCODE({"type": "heartbeat", "seq": True}),
    "float for int": ENCODE({"type": "heartbeat", "seq": 1.0}),
    "text for int": ENCODE({"type": "heartbeat", "seq": "1"}),
    "digits for int": ENCODE({"type": "heartbeat", "seq": "1" * 10_000}),
    "infinity for int": ENCODE({"type": "heartbeat", "seq": float("inf")}),
    "no field": ENCODE({"type": "heartbeat"}),
    "no type": ENCODE({"seq": 1}),
    "unknown type": ENCODE({"type": "__class__", "seq": 1}),
    "wrong direction": ENCODE({"type": "start", "key": "web.1#1"}),
    "bad UTF-8": b"\x82\xa4type\xa9heartbea\xff\xa3seq\x01",
    "lone surrogate": b"\x82\xa4type\xa9heartbeat\xa3\xed\xa0\x80\x01",
    "no map": ENCODE([1, 2, 3]),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_a_protocol_error_and_nothing_else(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(a_decoder(), framed(payload))


@given(st.binary(min_size=1, max_size=300))
def test_any_payload_is_a_message_or_a_protocol_error(payload: bytes) -> None:
    decoder: FrameDecoder[BulkRequest] = FrameDecoder(BulkRequest)
    with decoder.get_buffer() as buffer:
        buffer[: HEADER.size + len(payload)] = framed(payload)
    try:
        messages = decoder.advance(HEADER.size + len(payload))
    except ProtocolError:
        return
    assert all(isinstance(message, BulkRequest) for message in messages)


@given(st.binary(max_size=2000))
def test_any_stream_is_messages_or_a_protocol_error(data: bytes) -> None:
    decoder = a_decoder()
    try:
        feed(decoder, data)
    except ProtocolError:
        return
    assert len(decoder.get_buffer()) <= FRAME_MAX_BYTES + HEADER.size


def test_an_unknown_field_is_ignored() -> None:
    payload = ENCODE({"type": "want", "digest": DIGEST, "colour": "blue"})
    decoder: FrameDecoder[BulkRequest] = FrameDecoder(BulkRequest)
    with decoder.get_buffer() as buffer:
        buffer[: HEADER.size + len(payload)] = framed(payload)
    assert decoder.advance(HEADER.size + len(payload)) == [Want(digest=DIGEST)]

"""Ten million wounded frames through the decoders of every connection: none may be more than a
message or a ProtocolError, and none may cost memory that stays.

`python -m bench.frames [COUNT]` runs it alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from corps.errors import ProtocolError
from corps.wire.bulk import BulkAnswer, BulkRequest
from corps.wire.codec import HEADER, FrameDecoder, decode_payload
from corps.wire.swarm import SwarmAnswer, SwarmRequest
from corps.wire.worker import FromWorker, ToWorker
from tests.attack.shapes import sample, warp

COUNT = 10_000_000
CORPUS = 400  # frames of each connection that the wounds are made in
STREAM_EVERY = 200  # so often a frame comes through a connection's buffer, in a stream
UNIONS: tuple[Any, ...] = (
    FromWorker,
    ToWorker,
    BulkRequest,
    BulkAnswer,
    SwarmRequest,
    SwarmAnswer,
)
FRAME_BYTES = 4 << 10
Record = Callable[[str, float, str, float, str], None]


def run(record: Record, count: int = COUNT) -> None:
    cores = os.cpu_count() or 1
    begin = time.perf_counter()
    code = "from bench.frames import fuzz; import sys; fuzz(int(sys.argv[1]), int(sys.argv[2]))"
    share = -(-count // cores)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(time.time_ns() + number), str(share)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(cores)
    ]
    said = [child.communicate() for child in children]
    taken = time.perf_counter() - begin
    crashed = [err for child, (_, err) in zip(children, said, strict=True) if child.returncode]
    messages = sum(int(out.split()[0]) for out, err in said if not err)
    grown = max((int(out.split()[1]) for out, err in said if not err), default=0)
    text = f"{share * cores / taken / 1e3:.0f},000/s; {messages} were messages all the same; "
    text += f"memory grew by {grown / 1024:.1f} MiB" + "".join(crashed)
    record(f"{share * cores:,} fuzzed frames, crashes", len(crashed), "", 0, text)


def fuzz(seed: int, count: int) -> None:
    """In a process of its own: prints how many were messages, and KiB that it grew."""
    rng = Random(seed)
    corpora = [(_payloads(rng, union), union) for union in UNIONS]
    works = [(payloads, msgspec.msgpack.Decoder(union), union) for payloads, union in corpora]
    messages, before = 0, 0
    for number in range(count):
        payloads, decoder, union = works[number % len(works)]
        wounded = _wounded(rng, rng.choice(payloads))
        if number % STREAM_EVERY == 0:
            _stream(union, wounded)
        try:
            decode_payload(decoder, memoryview(wounded))
            messages += 1
        except ProtocolError:
            pass
        if number == count // 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(messages, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _payloads(rng: Random, union: Any) -> list[bytes]:
    made: list[bytes] = []
    while len(made) < CORPUS:
        value = sample(rng, union)
        data = msgspec.msgpack.encode(value if rng.random() < 0.5 else warp(rng, value))
        if data and len(data) <= FRAME_BYTES:
            made.append(data)
    return made


def _wounded(rng: Random, payload: bytes) -> bytearray:
    """One to three bytes are others, and now and then it is cut or has too much."""
    wounded = bytearray(payload)
    chance = rng.getrandbits(32)
    for shift in range(0, 8 * (1 + chance % 3), 8):
        wounded[rng.getrandbits(16) % len(wounded)] = chance >> shift & 0xFF
    if chance >> 24 < 16:
        del wounded[1 + rng.getrandbits(16) % len(wounded) :]
    elif chance >> 24 > 240:
        wounded += rng.randbytes(8)
    return wounded


def _stream(union: Any, payload: bytearray) -> None:
    decoder: FrameDecoder[Any] = FrameDecoder(union)
    data = memoryview(HEADER.pack(len(payload)) + bytes(payload))
    try:
        while data:
            with decoder.get_buffer() as buffer:
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
            decoder.advance(count)
            data = data[count:]
    except ProtocolError:
        pass


def _print(figure: str, value: float, unit: str, budget: float, limit: str) -> None:
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:58} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


if __name__ == "__main__":
    run(_print, int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)

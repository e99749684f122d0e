"""Every decoder, fed with what nearly fits: a message, or the one error that it may raise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import CorpsError, ProtocolError
from corps.keeper.journal import Journal
from corps.model.artifact import Manifest, decode_manifest
from corps.model.command import Submission
from corps.model.token import TokenKind, parse_token
from corps.wire import keeper as kw
from corps.wire.bulk import BulkAnswer, BulkRequest
from corps.wire.codec import FRAME_MAX_BYTES, HEADER, FrameDecoder
from corps.wire.join import ToJoining, ToMaster
from corps.wire.swarm import SwarmAnswer, SwarmRequest
from corps.wire.worker import FromWorker, ToWorker
from tests.attack.shapes import FUZZ, mutate, sample, warp

UNIONS = {
    "from a worker": FromWorker,
    "to a worker": ToWorker,
    "bulk request": BulkRequest,
    "bulk answer": BulkAnswer,
    "from who joins": ToMaster,
    "to who joins": ToJoining,
    "swarm request": SwarmRequest,
    "swarm answer": SwarmAnswer,
}
RANDOM = st.randoms(use_true_random=False)
BOOT = "b" * 36


def heard(union: Any, data: bytes) -> list[Any] | None:
    """What a connection makes of these bytes, in whatever pieces; None: it is closed."""
    decoder: FrameDecoder[Any] = FrameDecoder(union)
    messages: list[Any] = []
    rest = memoryview(data)
    while rest:
        with decoder.get_buffer() as buffer:
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
        try:
            messages += decoder.advance(count)
        except ProtocolError:
            return None
        rest = rest[count:]
        with decoder.get_buffer() as buffer:
            assert len(buffer) <= FRAME_MAX_BYTES + HEADER.size, "no more than one frame"
    return messages


def framed(value: Any) -> bytes:
    payload = msgspec.msgpack.encode(value)
    return HEADER.pack(len(payload)) + payload


@pytest.mark.parametrize("union", UNIONS.values(), ids=UNIONS.keys())
@FUZZ
@given(rng=RANDOM)
def test_what_fits_is_heard_as_it_was_said(union: Any, rng: Random) -> None:
    said = [sample(rng, union) for _ in range(rng.randint(1, 3))]
    messages = heard(union, b"".join(map(framed, said)))
    assert messages is not None and len(messages) == len(said)
    assert all(isinstance(message, union) for message in messages)
    again = heard(union, b"".join(map(framed, messages)))
    assert again is not None
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(messages)


@pytest.mark.parametrize("union", UNIONS.values(), ids=UNIONS.keys())
@FUZZ
@given(rng=RANDOM)
def test_what_nearly_fits_is_a_message_or_the_end(union: Any, rng: Random) -> None:
    messages = heard(union, framed(warp(rng, sample(rng, union))))
    assert messages is None or all(isinstance(message, union) for message in messages)


@pytest.mark.parametrize("union", UNIONS.values(), ids=UNIONS.keys())
@FUZZ
@given(rng=RANDOM)
def test_wounded_streams_are_messages_or_the_end(union: Any, rng: Random) -> None:
    stream = b"".join(framed(sample(rng, union)) for _ in range(rng.randint(1, 3)))
    messages = heard(union, mutate(rng, stream))
    assert messages is None or all(isinstance(message, union) for message in messages)


@FUZZ
@given(rng=RANDOM)
def test_a_wounded_manifest_is_refused_or_names_only_what_stays_inside(rng: Random) -> None:
    value = sample(rng, Manifest)
    data = msgspec.json.encode(value if rng.random() < 0.3 else warp(rng, value))
    if rng.random() < 0.5:
        data = mutate(rng, data)
    try:
        manifest = decode_manifest(data)
    except CorpsError:
        return
    for file in manifest.files:
        assert not file.path.startswith("/") and ".." not in file.path.split("/")
        assert "\0" not in file.path


@FUZZ
@given(rng=RANDOM)
def test_a_wounded_body_is_a_submission_or_a_decode_error(rng: Random) -> None:
    data = msgspec.json.encode(warp(rng, sample(rng, Submission)))
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        assert isinstance(msgspec.json.decode(mutate(rng, data), type=Submission), Submission)


@FUZZ
@given(text=st.text() | st.from_regex(r"[CP]1\.[a-z2-7.]{0,80}", fullmatch=True))
def test_no_text_is_a_token_by_chance_and_none_is_repeated(text: str) -> None:
    with pytest.raises(CorpsError) as error:
        parse_token(text, TokenKind.JOIN)
    assert error.value.message == "this is no token, or not all of it: paste it again"


@FUZZ
@given(rng=RANDOM)
def test_what_the_keeper_says_is_decoded_or_refused(rng: Random) -> None:
    for union in (kw.ToKeeper, kw.FromKeeper):
        data = msgspec.json.encode(warp(rng, sample(rng, union)))
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = msgspec.json.decode(mutate(rng, data), type=union)
            assert isinstance(message, kw.KeeperMessage)


@FUZZ
@given(seed=st.integers(0, 1 << 32))
def test_a_wounded_journal_is_read_as_far_as_it_is_whole(
    journal_directory: Path, seed: int
) -> None:
    rng = Random(seed)  # its header has the time: what is drawn may not depend on its length
    for path in journal_directory.iterdir():
        path.unlink()
    journal = Journal(BOOT, is_durable=False)
    journal.compact()
    keys = [f"web.{number}#1" for number in range(1, rng.randint(2, 6))]
    for key in keys:
        journal.put(key, pid=rng.choice((7, 1 << 40)), note=rng.choice(("", '{"t":"x"}')))
        journal.put(key, is_live=False, status=rng.choice((0, 9, 256)), forked_at=1.0)
    assert journal.write()
    size = journal._end
    del journal
    file = journal_directory / "journal"
    data = file.read_bytes()
    file.write_bytes(mutate(rng, data[:size]) + data[size:])
    try:
        table = Journal(BOOT, is_durable=False).table
    except OSError:
        return  # its header is gone: nobody guesses what the rest would mean
    assert set(table) <= set(keys), "nothing is made up"
    assert all(kept.get("status") in (None, 0, 9, 256) for kept in table.values())


@pytest.fixture(scope="module")
def journal_directory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The keeper works in its directory."""
    before = Path.cwd()
    directory = tmp_path_factory.mktemp("journal")
    os.chdir(directory)
    yield directory
    os.chdir(before)

"""Uploads to the HTTPS port: a token first, then as on the unix socket, for as long as it holds."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import blake3
import pytest

from corps.model.token import TokenKind, format_token
from corps.model.trust import RemoveUser, RevokeToken, Role, SetUser
from corps.net.channel import Channel
from corps.wire.bulk import Authorize, BulkAnswer, Missing, Sending, Stored, Trouble
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, encode_frame
from tests.support.cluster import Cluster
from tests.support.people import HTTPS, Remote, a_token, add_join_token, add_person, rule

BLOB = b"of somebody elsewhere" * 1_000
DIGEST = blake3.blake3(BLOB).hexdigest()
LARGE_BYTES = 8 << 20
STALL_S = 20.0  # shorter than the master's own patience with who sends nothing


class Case(NamedTuple):
    cluster: Cluster
    remote: Remote

    @contextlib.contextmanager
    def opened(self, opening: bytes) -> Iterator[Channel[BulkAnswer]]:
        sock = self.remote.connect_bulk()
        try:
            sock.sendall(opening)
            yield Channel(sock, BulkAnswer, STALL_S)
        finally:
            sock.close()


def opening(token: str) -> bytes:
    return BULK_PREFACE + encode_frame(Authorize(token=token))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made = Cluster(tmp_path_factory.mktemp("uploads"))
    try:
        made.start_master(*HTTPS)
        yield Case(made, Remote(made))
    finally:
        made.end()


def test_a_deployer_uploads(case: Case) -> None:
    token = format_token(add_person(case.cluster, "dora", Role.DEPLOYER))
    # all at once: what follows the token must not be lost with it
    question = encode_frame(Missing(digests=(DIGEST,)))
    sending = encode_frame(Sending(digest=DIGEST, size_bytes=len(BLOB)))
    with case.opened(opening(token) + question + sending + BLOB) as channel:
        assert channel.receive() == Missing(digests=(DIGEST,))
        assert channel.receive() == Stored(digest=DIGEST)
        channel.send(Missing(digests=(DIGEST,)))
        assert channel.receive() == Missing(digests=())
    stored = case.cluster.settings.master_dir / "blobs" / DIGEST[:2] / DIGEST
    assert stored.read_bytes() == BLOB


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_others_may_not(case: Case, role: Role) -> None:
    token = format_token(add_person(case.cluster, role.value, role))
    with case.opened(opening(token)) as channel:
        answer = channel.receive()
        assert isinstance(answer, Trouble)
        assert answer.code == "denied"
        assert "'deploy'" in answer.message
        assert channel.receive() is None


@pytest.mark.parametrize("sort", ["unknown", "malformed", "join", "empty"])
def test_a_stranger_may_not(case: Case, sort: str) -> None:
    shown = {
        "unknown": format_token(a_token()),
        "malformed": "P1.nonsense",
        "join": format_token(add_join_token(case.cluster)),
        "empty": "",
    }[sort]
    with case.opened(opening(shown)) as channel:
        answer = channel.receive()
        assert isinstance(answer, Trouble)
        assert answer.code == "denied"
        assert channel.receive() is None


@pytest.mark.parametrize(
    "said",
    [
        CONTROL_PREFACE,
        b"GET / HT",
        BULK_PREFACE + encode_frame(Missing(digests=(DIGEST,))),
        BULK_PREFACE + b"\xff\xff\xff\xff",
        BULK_PREFACE + b"\x00\x00\x00\x00",
        BULK_PREFACE + encode_frame(Authorize(token="x" * 10_000)),
        BULK_PREFACE + b"\x00\x00\x00\x04\x81\xa5toke",
    ],
)
def test_nobody_comes_past_the_token(case: Case, said: bytes) -> None:
    with contextlib.suppress(OSError), case.opened(said) as channel:
        answer = channel.receive()
        assert answer is None or isinstance(answer, Trouble), answer
        if answer is not None:
            assert answer.code == "protocol"
            assert channel.receive() is None


@pytest.mark.parametrize("loss", ["token", "role", "person"])
def test_an_upload_ends_with_the_right_to_it(case: Case, loss: str) -> None:
    token = add_person(case.cluster, "eve", Role.DEPLOYER)
    digest = blake3.blake3(bytes(LARGE_BYTES)).hexdigest()
    with case.opened(opening(format_token(token))) as channel:
        channel.send(Missing(digests=(digest,)))
        assert channel.receive() == Missing(digests=(digest,))
        channel.send(Sending(digest=digest, size_bytes=LARGE_BYTES))
        match loss:
            case "token":
                rule(case.cluster, RevokeToken(id=token.id))
            case "role":
                rule(case.cluster, SetUser(name="eve", role=Role.OPERATOR))
            case _:
                rule(case.cluster, RemoveUser(name="eve"))
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # cut, in the middle of the blob
            assert channel.receive() is None
    assert digest in _missing(case, digest)


def _missing(case: Case, digest: str) -> tuple[str, ...]:
    token = format_token(add_person(case.cluster, "frank", Role.ADMIN))
    with case.opened(opening(token)) as channel:
        channel.send(Missing(digests=(digest,)))
        answer = channel.receive()
    assert isinstance(answer, Missing)
    return answer.digests


def test_a_master_that_ends_ends_its_uploads(case: Case) -> None:
    made = Cluster(case.cluster.directory / "other")
    made.directory.mkdir()
    try:
        made.start_master(*HTTPS)
        other = Case(made, Remote(made))
        token = format_token(add_person(made, "gina", Role.DEPLOYER))
        with other.opened(opening(token)) as channel:
            channel.send(Missing(digests=(DIGEST,)))
            assert channel.receive() == Missing(digests=(DIGEST,))
            made.client.shutdown(())
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert channel.receive() is None
    finally:
        made.end()


def test_who_is_turned_away_holds_no_thread(tmp_path: Path) -> None:
    """Else a handful without a token, who go on to say something, would hold them all."""
    made = Cluster(tmp_path)
    try:
        made.start_master(*HTTPS)
        other, threads = Case(made, Remote(made)), Path(f"/proc/{made.pid('master')}/task")
        add_person(made, "hans", Role.VIEWER)  # the store has its thread from now on
        before = {thread.name for thread in threads.iterdir()}
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                opened = other.opened(opening(format_token(a_token())))
                assert isinstance(stack.enter_context(opened).receive(), Trouble)
            assert {thread.name for thread in threads.iterdir()} == before
    finally:
        made.end()


def test_the_token_is_in_no_log(case: Case) -> None:
    token = a_token(TokenKind.PERSON)
    with case.opened(opening(format_token(token))) as channel:
        assert isinstance(channel.receive(), Trouble)
    log = case.cluster.log("master")
    assert format_token(token).split(".")[2] not in log
    assert "Traceback" not in log

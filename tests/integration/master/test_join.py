"""Joining: who gets in by a token, who does not, and what each side learns of the other."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from corps.clock import Clock
from corps.errors import CorpsError, Denied, Unavailable
from corps.master.join import FAILURES_MAX
from corps.model.token import Token, hash_secret
from corps.model.trust import RevokeToken, RevokeWorker
from corps.net import join_client
from corps.net.channel import Channel
from corps.trust.authority import Authority
from corps.trust.contexts import Purpose, server_context, stranger_context
from corps.trust.credentials import Credentials
from corps.wire.codec import encode_frame
from corps.wire.join import Join, Joined, Offer, Refused, Renew, ToJoining, prove
from tests.support.joining import CLUSTER, JoinPort, a_key, join_port
from tests.support.waiting import until

DAY_S = 86_400.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[JoinPort]:
    with join_port(tmp_path / "master") as made:
        yield made


def join(
    port: JoinPort,
    token: Token,
    name: str | None = "w1",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Joined:
    return join_client.join(port.address, token, name, "host", key or a_key())


def test_a_token_makes_a_member_once(port: JoinPort) -> None:
    token = port.make_token()
    joined = join(port, token)
    member = port.roll.members["w1"]
    assert joined.worker == member.worker == "w1"
    assert port.roll.join_tokens[token.id].uses_left == 0
    assert port.roll.join_tokens[token.id].joined == ("w1",)
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, token, "w2")
    assert list(port.roll.members) == ["w1"]


def test_a_token_says_what_its_worker_is_called(port: JoinPort) -> None:
    assert join(port, port.make_token(worker="w7"), None).worker == "w7"
    assert join(port, port.make_token(), None).worker == "host"
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, port.make_token(worker="w8"), "w9")


def test_of_many_with_one_token_one_wins(port: JoinPort) -> None:
    token = port.make_token()

    def come(number: int) -> str | None:
        try:
            return join(port, token, f"w{number}").worker
        except Denied as error:
            assert "E_TOKEN" in error.message
            return None

    with ThreadPoolExecutor(8) as pool:
        came = [name for name in pool.map(come, range(8)) if name]
    assert came == list(port.roll.members)
    assert len(came) == 1


def test_who_lost_the_answer_asks_again_with_the_same_key(port: JoinPort) -> None:
    token, key = port.make_token(), a_key()
    first = join(port, token, key=key)
    again = join(port, token, key=key)
    assert first.certificate != again.certificate
    assert port.roll.members["w1"].token == token.id
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, token)  # another key is somebody else
    port.order(RevokeWorker(worker="w1"))
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, token, key=key)


def test_one_text_for_all_that_is_wrong_with_a_token(port: JoinPort) -> None:
    good = port.make_token()
    spent = port.make_token()
    join(port, spent)
    revoked = port.make_token()
    port.order(RevokeToken(id=revoked.id))
    wrong = [
        (msgspec.structs.replace(good, secret=bytes(16)), "w2"),
        (msgspec.structs.replace(good, id="aaaaaaaa"), "w2"),
        (spent, "w2"),
        (revoked, "w2"),
        (port.make_token(worker="w5"), "w2"),
        (good, "w1"),  # a name that somebody has
        (good, "all"),
        (good, "../w2"),
    ]

    def refused(case: tuple[Token, str]) -> str:
        with pytest.raises(Denied) as told:
            join(port, *case)
        return told.value.message

    with ThreadPoolExecutor(len(wrong)) as pool:
        texts = set(pool.map(refused, wrong))
    assert len(texts) == 1
    assert list(port.roll.members) == ["w1"]


def test_an_expired_token_is_worth_nothing(port: JoinPort) -> None:
    token = port.make_token(ttl_s=60.0)
    port.ahead_s = 61.0
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, token)
    assert port.roll.members == {}


def test_a_name_is_taken_over_only_by_a_token_that_names_it(port: JoinPort) -> None:
    join(port, port.make_token())
    before = port.roll.members["w1"].key
    with pytest.raises(Denied, match="E_TOKEN"):
        join(port, port.make_token())
    assert port.roll.members["w1"].key == before
    join(port, port.make_token(worker="w1"))
    assert port.roll.members["w1"].key != before
    port.order(RevokeWorker(worker="w1"))
    join(port, port.make_token())
    assert port.roll.members["w1"].revoked_at is None


def test_a_source_that_guesses_is_heard_no_more(port: JoinPort) -> None:
    good = port.make_token()
    bad = msgspec.structs.replace(good, secret=bytes(16))

    def guess(_: int) -> str:
        with pytest.raises(CorpsError) as refused:
            join(port, bad)
        return refused.value.code

    with ThreadPoolExecutor(FAILURES_MAX) as pool:
        assert set(pool.map(guess, range(FAILURES_MAX))) == {"denied"}
    with pytest.raises(Unavailable, match="try again in a minute"):
        join(port, good)
    assert port.roll.members == {}


# ---- who tries with what was not made for it


def test_a_wrong_master_learns_nothing(port: JoinPort, tmp_path: Path) -> None:
    token = port.make_token()
    with imposter(tmp_path / "theirs") as (address, heard):
        with pytest.raises(Denied, match="E_CA_PIN"):
            join_client.join(address, token, "w1", "host", a_key())
        until(lambda: heard)
        assert heard == [b""], "not a byte was said to it"


def test_a_master_of_the_right_ca_in_name_only_learns_nothing(
    port: JoinPort, tmp_path: Path
) -> None:
    """It offers the true CA, which did not sign what it showed."""
    token = port.make_token()
    bundle = port.certificates.authority.bundle_pem
    with imposter(tmp_path / "theirs", bundle) as (address, heard):
        with pytest.raises(Denied, match="not signed by the CA"):
            join_client.join(address, token, "w1", "host", a_key())
        until(lambda: heard)
        assert heard == [b""]


def test_a_proof_is_worth_nothing_on_another_connection(port: JoinPort) -> None:
    """Recorded, or passed on by somebody in the middle who shows another certificate."""
    token, request, nonce = port.make_token(), a_request(a_key()), bytes(range(32))
    secret_hash = hash_secret(token.secret)
    channel, true_leaf, first = dial(port)
    channel.close()
    for leaf, offer, proven in (
        (true_leaf, first, request),  # replayed: this connection has another nonce
        (b"another certificate", None, request),
        (true_leaf, None, a_request(a_key())),
    ):
        channel, _, this = dial(port)
        proof = prove(secret_hash, leaf, offer or this, nonce, proven)
        channel.send(
            Join(token=token.id, worker="w1", host="h", nonce=nonce, request=request, proof=proof)
        )
        answer = channel.receive()
        assert isinstance(answer, Refused)
        assert "E_TOKEN" in answer.message
        channel.close()
    assert port.roll.members == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: a_request(rsa.generate_private_key(65537, 1024)),
        lambda: a_request(ec.generate_private_key(ec.SECP384R1())),
        lambda: a_request(a_key())[:-1] + b"\0",
        lambda: b"rubbish",
        lambda: bytes(8_000),
    ],
    ids=["rsa", "p384", "signature", "rubbish", "large"],
)
def test_a_request_that_will_not_do_is_refused_and_costs_no_use(
    port: JoinPort, make: Callable[[], bytes]
) -> None:
    token, request = port.make_token(), make()
    channel, leaf, offer = dial(port)
    nonce = bytes(32)
    proof = prove(hash_secret(token.secret), leaf, offer, nonce, request)
    channel.send(
        Join(token=token.id, worker="w1", host="h", nonce=nonce, request=request, proof=proof)
    )
    answer = channel.receive()
    assert isinstance(answer, Refused)
    assert "E_CSR" in answer.message
    channel.close()
    assert join(port, token).worker == "w1"


@pytest.mark.parametrize("rubbish", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", encode_frame(3)])
def test_rubbish_ends_the_connection_and_nothing_else(port: JoinPort, rubbish: bytes) -> None:
    channel, _, _ = dial(port)
    channel.hold(rubbish)
    assert channel.receive() is None
    channel.close()
    assert join(port, port.make_token()).worker == "w1"


# ---- renewal


def test_a_member_renews_by_its_key(port: JoinPort, tmp_path: Path) -> None:
    credentials = joined(port, tmp_path)
    before = credentials.identity()
    given = join_client.renew(port.address, credentials)
    credentials.replace(given.certificate, given.authorities)
    after = credentials.identity()
    assert (before.worker, before.key) == (after.worker, after.key)
    assert before.serial != after.serial == port.roll.members["w1"].serial


def test_after_a_long_absence_an_expired_certificate_is_renewed(
    port: JoinPort, tmp_path: Path
) -> None:
    credentials = joined(port, tmp_path)
    port.ahead_s = 29 * DAY_S
    given = join_client.renew(port.address, credentials)
    credentials.replace(given.certificate, given.authorities)
    port.ahead_s = 61 * DAY_S
    with pytest.raises(Denied, match="has expired"):
        join_client.renew(port.address, credentials)


def test_a_revoked_one_is_not_renewed(port: JoinPort, tmp_path: Path) -> None:
    credentials = joined(port, tmp_path)
    port.order(RevokeWorker(worker="w1"))
    with pytest.raises(Denied, match="revoked by ann"):
        join_client.renew(port.address, credentials)


def test_who_shows_no_certificate_is_not_renewed(port: JoinPort) -> None:
    channel, _, _ = dial(port)
    channel.send(Renew(request=a_request(a_key())))
    answer = channel.receive()
    assert isinstance(answer, Refused)
    assert "join first" in answer.message
    channel.close()


# ---- what the tests are made of


def joined(port: JoinPort, tmp_path: Path) -> Credentials:
    key, token = a_key(), port.make_token()
    given = join(port, token, key=key)
    credentials = Credentials(tmp_path / "w1" / "trust")
    credentials.save(key, given.certificate, given.authorities, token.id)
    return credentials


def a_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def dial(port: JoinPort) -> tuple[Channel[ToJoining], bytes, Offer]:
    plain = socket.create_connection(port.address, timeout=20)
    sock = stranger_context().wrap_socket(plain, server_hostname=Purpose.JOIN)
    channel: Channel[ToJoining] = Channel(sock, ToJoining, stall_s=20)
    offer = channel.receive()
    leaf = sock.getpeercert(binary_form=True)
    assert isinstance(offer, Offer)
    assert leaf is not None
    return channel, leaf, offer


@contextmanager
def imposter(
    directory: Path, bundle: bytes | None = None
) -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """Somebody else's master, and all that is said to it once it has made its offer."""
    theirs = Authority(directory, CLUSTER, Clock()())
    theirs.issue_master(["127.0.0.1"], Clock()())
    context = server_context(
        directory / "master.pem", directory / "master.key", "", wants_client=False
    )
    heard: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        plain.settimeout(20)
        with context.wrap_socket(plain, server_side=True) as sock:
            authorities = theirs.bundle_pem if bundle is None else bundle
            offer = Offer(cluster=CLUSTER, authorities=authorities, nonce=bytes(32))
            sock.sendall(encode_frame(offer))
            try:
                heard.append(sock.recv(1 << 16))
            except (ssl.SSLEOFError, ConnectionError):  # closed without a word
                heard.append(b"")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield listening.getsockname(), heard
        thread.join()

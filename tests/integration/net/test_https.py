"""The client over TLS: it says who it is to the right master only, and to nobody else."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from corps.client import Client
from corps.clock import Clock
from corps.config import Settings, config_dir
from corps.errors import CorpsError, Denied, Invalid, ProtocolError, Unavailable
from corps.model.command import Failure, Instances
from corps.model.token import TokenKind, base32, parse_token
from corps.net.bulk_client import BulkClient
from corps.net.endpoint import TOKEN_VARIABLE, endpoint_of
from corps.net.https import meet, parse_url
from corps.trust.authority import Authority, key_pem
from corps.trust.logins import Logins
from corps.wire.bulk import Authorize
from corps.wire.codec import BULK_PREFACE, encode_frame
from tests.support.http import HELLO, Answer, TlsMaster, serving
from tests.support.logins import SECRET, a_login, a_token, an_authority
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return an_authority(tmp_path / "ca")


@pytest.fixture
def master(authority: Authority) -> Iterator[TlsMaster]:
    with serving(TlsMaster(authority)) as master:
        yield master


def _failure(client: Client) -> CorpsError:
    with client, pytest.raises(CorpsError) as caught:
        client.workers()
    return caught.value


def test_a_token_is_enough_to_find_its_master(authority: Authority, master: TlsMaster) -> None:
    token = a_token(authority)
    master.answers += [Answer([]), Answer([])]
    with Client(master.url, token=token) as client:
        assert client.workers() == []
        assert client.artifacts() == []
    hello, *asked = master.requests
    assert (hello.path, hello.token) == (HELLO, None)
    assert [request.token for request in asked] == [f"Bearer {token}"] * 2
    assert [request.connection for request in master.requests] == [1, 2, 2], "kept alive"


def test_the_token_comes_from_the_environment(
    authority: Authority, master: TlsMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, a_token(authority))
    master.answers.append(Answer([]))
    with Client(Settings(server=master.url)) as client:
        assert client.workers() == []


def test_a_login_needs_no_hello(authority: Authority, master: TlsMaster) -> None:
    Logins(config_dir()).save("prod", a_login(master, authority))
    master.answers += [Answer([]), Answer([])]
    for settings in (Settings(context="prod"), Settings(server=master.url)):
        with Client(settings) as client:
            assert client.workers() == []
    assert [request.path for request in master.requests] == ["/v1/workers"] * 2


def test_without_a_token_nobody_is_dialled(master: TlsMaster) -> None:
    with pytest.raises(Denied, match="'corps login' first"):
        Client(master.url)
    with pytest.raises(Invalid, match="paste it again"):
        Client(master.url, token="P1.nonsense")
    assert master.names == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://boss:7078", ("boss", 7078)),
        ("https://boss.example/", ("boss.example", 443)),
        ("https://[::1]:7078", ("::1", 7078)),
        ("https://[::1]", ("::1", 443)),
    ],
)
def test_urls(url: str, address: tuple[str, int]) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "rest", ["", ":1", "ann:word@m:1", "m:1/word", "m:1?word", "m:1#word", "m:1 word", "m:0x1"]
)
def test_urls_that_are_none(rest: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_url(f"https://{rest}")
    assert "word" not in caught.value.message


def test_a_master_of_another_ca_hears_no_token(tmp_path: Path, master: TlsMaster) -> None:
    other = an_authority(tmp_path / "other")
    error = _failure(Client(master.url, token=a_token(other)))
    assert isinstance(error, Denied)
    assert "another pin; the token was not sent" in error.message
    assert [request.token for request in master.requests] == [None]


def test_who_only_shows_the_right_ca_hears_no_token(tmp_path: Path, authority: Authority) -> None:
    """It says hello with a CA that everybody may know, but has no certificate of it."""
    other = an_authority(tmp_path / "other")
    with serving(TlsMaster(other)) as master:
        master.hello = {"cluster": "c1", "authorities": authority.bundle_pem.decode()}
        error = _failure(Client(master.url, token=a_token(authority)))
        assert isinstance(error, Denied)
        assert "is not the master that was logged in to" in error.message
        assert [request.path for request in master.requests] == [HELLO]
        until(lambda: master.failures)


def test_a_login_of_another_ca_is_refused(
    tmp_path: Path, authority: Authority, master: TlsMaster
) -> None:
    login = a_login(master, an_authority(tmp_path / "other"))
    Logins(config_dir()).save("prod", login)
    error = _failure(Client(Settings(context="prod")))
    assert isinstance(error, Denied)
    assert master.requests == []


def test_a_worker_is_no_master(authority: Authority) -> None:
    """Workers have certificates of the same CA, and may listen where a master was."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "w1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    csr = request.public_bytes(Encoding.DER)
    certificate = authority.issue_worker(csr, "w1", Clock()())
    (authority.directory / "w1.key").write_bytes(key_pem(key))
    (authority.directory / "w1.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    with serving(TlsMaster(authority, "w1")) as master:
        error = _failure(Client(master.url, token=a_token(authority)))
        assert isinstance(error, Denied)
        assert "no master's: nothing was sent" in error.message
        assert [request.path for request in master.requests] == [HELLO]


def test_an_expired_master_is_refused(tmp_path: Path) -> None:
    authority = an_authority(tmp_path / "ca")
    authority.issue_master(["127.0.0.1"], Clock()() - 2 * 365 * 86_400)
    with serving(TlsMaster(authority)) as master:
        error = _failure(Client(master.url, token=a_token(authority)))
        assert isinstance(error, Denied)
        assert "certificate has expired; see that the clocks are right" in error.message


def test_no_master_no_tls_and_old_tls_are_told_apart(authority: Authority) -> None:
    token = a_token(authority)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    error = _failure(Client(f"https://127.0.0.1:{port}", token=token))
    assert isinstance(error, Unavailable)
    assert error.message == f"no master at https://127.0.0.1:{port}: connection refused"
    with serving(TlsMaster(authority)) as old:
        old.context.minimum_version = ssl.TLSVersion.TLSv1_2
        old.context.maximum_version = ssl.TLSVersion.TLSv1_2
        error = _failure(Client(old.url, token=token))
        assert isinstance(error, ProtocolError)
        assert "no TLS 1.3 at https://127.0.0.1" in error.message


def test_another_program_there_is_no_master(authority: Authority, master: TlsMaster) -> None:
    address = parse_url(master.url)
    for hello in ({}, {"authorities": "rubbish"}, {"authorities": 3}):
        master.hello = hello
        with pytest.raises(ProtocolError, match="does not answer as a master of corps"):
            meet(address, authority.pin)
    master.hello = None
    master.answers.append(Answer({}, status=404))
    with pytest.raises(ProtocolError, match="HTTP 404"):
        meet(address, authority.pin)
    master.hello = {"authorities": "x" * 300_000}
    with pytest.raises(ProtocolError, match="more than"):
        meet(address, authority.pin)


def test_what_the_master_denies_is_said(authority: Authority, master: TlsMaster) -> None:
    for status in (401, 403):
        failure = Failure(code="denied", message="ann is viewer here")
        master.answers.append(Answer(failure, status=status))
        error = _failure(Client(master.url, token=a_token(authority)))
        assert isinstance(error, Denied)
        assert error.message == "ann is viewer here"


def test_a_command_survives_lost_connections(authority: Authority, master: TlsMaster) -> None:
    master.answers += [Answer(None), Answer(None, is_last=True), Answer(Instances(instances=()))]
    with Client(master.url, token=a_token(authority)) as client:
        assert client.kill(["web.1"]) == ()
    bodies = {request.body for request in master.requests if request.method == "POST"}
    assert len(bodies) == 1


def test_a_ticket_of_the_master_does_not_end_a_connection(
    authority: Authority, master: TlsMaster
) -> None:
    """Whatever TLS itself says between two requests, the connection is as good as before."""
    master.context.num_tickets = 4
    master.context.options &= ~ssl.OP_NO_TICKET
    master.answers += [Answer([]) for _ in range(5)]
    with Client(master.url, token=a_token(authority)) as client:
        for _ in range(5):
            assert client.workers() == []
    assert {request.connection for request in master.requests} == {1, 2}


def test_a_connection_that_was_closed_meanwhile_is_replaced(
    authority: Authority, master: TlsMaster
) -> None:
    master.answers += [Answer([], is_last=True), Answer([])]
    with Client(master.url, token=a_token(authority)) as client:
        assert client.workers() == []
        assert client.workers() == []
    assert [request.connection for request in master.requests] == [1, 2, 3]


def test_blobs_open_with_the_token(authority: Authority, master: TlsMaster) -> None:
    """On a connection whose name says what it is for."""
    token = a_token(authority)
    heard: list[bytes] = []
    wanted = BULK_PREFACE + encode_frame(Authorize(token=token))

    def serve() -> None:
        sock, _ = listening.accept()
        with master.context.wrap_socket(sock, server_side=True) as tls:
            heard.append(tls.recv(len(wanted)))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        login = a_login(master, authority)
        server = f"https://127.0.0.1:{_port(listening)}"
        Logins(config_dir()).save("prod", msgspec.structs.replace(login, server=server))
        endpoint = endpoint_of(Settings(context="prod"))
        bulk = BulkClient(endpoint.connect_bulk, opening=endpoint.opening)
        with bulk, pytest.raises(Unavailable, match="closed by the peer"):
            bulk.missing(["0" * 64])
        thread.join()
    assert heard == [wanted]
    assert master.names == ["bulk.corps"]


def _port(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


def test_the_command_line_takes_it_all(authority: Authority, master: TlsMaster) -> None:
    token = a_token(authority)
    master.answers += [Answer([]), Answer([])]
    words = [sys.executable, "-m", "corps.cli.main", "--server", master.url]
    env = {**os.environ, TOKEN_VARIABLE: token}
    done = subprocess.run(
        [*words, "workers", "-o", "json"], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    file = authority.directory / "token"
    file.write_text(f"{token}\n")
    file.chmod(0o600)
    words += ["--token-file", str(file)]
    done = subprocess.run([*words, "workers"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    file.write_text("\n")
    done = subprocess.run([*words, "workers"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert "this is no token" in done.stderr
    file.chmod(0o640)
    done = subprocess.run([*words, "workers"], capture_output=True, text=True, timeout=60)
    assert done.returncode == Denied.exit_code
    assert "mode 0640): chmod 600 it" in done.stderr


def test_a_login_of_others_is_refused(authority: Authority, master: TlsMaster) -> None:
    logins = Logins(config_dir())
    logins.save("prod", a_login(master, authority))
    file = config_dir() / "contexts" / "prod.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert parse_token(logins.load("prod").token, TokenKind.PERSON).secret == SECRET
    assert base32(SECRET) not in repr(logins.load("prod"))
    for mode in (0o644, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(Denied, match="chmod 600"):
            Client(Settings(context="prod"))
    file.chmod(0o600)
    os.chown(file, 12345, 12345)
    with pytest.raises(Denied, match="another user"):
        Client(Settings(context="prod"))
    shutil.rmtree(file.parent)
    assert logins.names() == []

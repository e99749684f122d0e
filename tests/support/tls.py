"""A CA and certificates for a test, as a master makes them."""

from __future__ import annotations

import secrets
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from corps.config import Settings
from corps.core.events import Save
from corps.core.records import Meta
from corps.model.identity import Identity
from corps.model.trust import Member
from corps.store.sqlite import SqliteStore
from corps.trust.authority import WORKER_LIFE_S, Authority
from corps.trust.contexts import client_context, server_context
from corps.trust.credentials import DIRECTORY, Credentials
from corps.trust.names import identity_of


def request_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request to sign this key, in DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class TestCa:
    """The CA of cluster `cluster` in `directory`, and whom it made members."""

    __test__ = False

    def __init__(self, directory: Path, cluster: str = "c1") -> None:
        self.directory, self.cluster = directory, cluster
        self.authority = Authority(directory, cluster, time.time())
        self.pem = self.authority.bundle_pem.decode()

    def server_context(self) -> ssl.SSLContext:
        """The master's."""
        self.authority.issue_master(["127.0.0.1"], time.time())
        pem, key = self.directory / "master.pem", self.directory / "master.key"
        return server_context(pem, key, self.pem)

    def stranger_context(self) -> ssl.SSLContext:
        """Of somebody who has no certificate, and knows this CA."""
        return client_context(self.pem)

    def credentials(self, directory: Path, worker: str, age_s: float = 0.0) -> Credentials:
        """A worker's, in its state directory, given `age_s` ago."""
        credentials = Credentials(directory / DIRECTORY)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue_worker(request_of(key), worker, time.time() - age_s)
        pem = certificate.public_bytes(Encoding.PEM)
        credentials.save(key, pem, self.authority.bundle_pem, token="")
        return credentials

    def identity(self, worker: str) -> Identity:
        """What a certificate of this CA makes of its bearer."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue_worker(request_of(key), worker, time.time())
        return identity_of(certificate.public_bytes(Encoding.DER))


def member_of(identity: Identity, revoked_by: str | None = None) -> Member:
    assert identity.worker is not None
    return Member(
        worker=identity.worker,
        key=identity.key,
        serial=identity.serial,
        joined_at=identity.expires_at - WORKER_LIFE_S,
        expires_at=identity.expires_at,
        token="test",
        revoked_at=None if revoked_by is None else time.time(),
        revoked_by=revoked_by,
    )


def enroll(
    settings: Settings, *names: str, age_s: float = 0.0, revoked_by: str | None = None
) -> TestCa:
    """Before the master starts: its CA, and these as workers that joined it `age_s` ago."""
    settings.master_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = SqliteStore(settings.master_dir / "state.db")
    try:
        meta = next((one for one in store.load() if isinstance(one, Meta)), None)
        if meta is None:
            meta = Meta(cluster=secrets.token_hex(8), epoch=0)
        ca = TestCa(settings.master_dir / "trust", meta.cluster)
        given = [ca.credentials(settings.worker_dir(name), name, age_s) for name in names]
        members = [member_of(one.identity(), revoked_by) for one in given]
        store.commit([Save(meta), *map(Save, members)])
    finally:
        store.close()
    return ca


def credentials_of(settings: Settings, name: str) -> Credentials:
    """What that worker has."""
    return Credentials(settings.worker_dir(name) / DIRECTORY)

"""The CA of a cluster: ECDSA P-256, made at its first need, in a directory of the master's.

Its files, all 0600: `ca.key`, `ca.pem` (one certificate, or two while the CA is rotated: that of
`ca.key` signs), `next.key` until the new CA signs, `master.key`, `master.pem`; `former.pem` and
`heirs.pem` after a rotation. Only the public key of a request is used: every name, every right and
every date of a certificate is the master's own word (RFC 5280, RFC 2986).

An heir is a new CA with the signature of the one before, of the same name, so that it does not
count against a path length (RFC 5280, 6.1.4). The master shows them in each handshake: whoever
knows but a former CA knows the master still, and learns of the new one.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from corps.errors import Denied, Invalid, Unavailable
from corps.model.identity import master_uri, worker_uri
from corps.model.name import WorkerName
from corps.model.trust import CaStage
from corps.trust.files import check_private, write_private
from corps.trust.names import UNREADABLE, pin_of_ca

CA_LIFE_S = 10 * 365 * 86_400.0
MASTER_LIFE_S = 365 * 86_400.0
WORKER_LIFE_S = 86_400.0
EARLY_S = 300.0  # a certificate holds from a little before: clocks differ
CSR_MAX_BYTES = 4 << 10
FORMER_KEPT = 3


class Authority:
    """Signs for one cluster. `now` is given: unix seconds."""

    def __init__(self, directory: Path, cluster: str, now: float) -> None:
        """Load what is there, or make it. Raise Unavailable for what cannot be read."""
        self.directory, self.cluster = directory, cluster
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            if not (directory / "ca.pem").exists():
                self._make(now)
            self._load()
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"cannot read the CA in {directory}: {error}") from error

    @property
    def certificate(self) -> x509.Certificate:
        """The CA that signs now."""
        return self._bundle[0]

    @property
    def bundle_pem(self) -> bytes:
        """All CAs that are trusted, first the one that signs."""
        return _pem(self._bundle)

    @property
    def pin(self) -> str:
        return pin_of_ca(self.certificate)

    @property
    def pins(self) -> tuple[str, ...]:
        """Of all CAs that are trusted, in their order."""
        return tuple(map(pin_of_ca, self._bundle))

    @property
    def former_pem(self) -> bytes:
        """The CAs before this one: by them nobody is known here, but us to others."""
        return _read(self.directory / "former.pem")

    @property
    def stage(self) -> CaStage:
        if len(self._bundle) == 1:
            return CaStage.STEADY
        return CaStage.SPREADING if self._next.exists() else CaStage.REPLACING

    def prepare(self, now: float) -> None:
        """From STEADY to SPREADING: there is another CA, which is trusted and does not sign yet."""
        assert self.stage is CaStage.STEADY
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(self._next, key_pem(key))
        end = self.certificate.not_valid_after_utc.timestamp()
        self._keep("heirs.pem", self._ca(key.public_key(), self._key, now, end))
        self._keep("former.pem", self.certificate)
        self._write([self.certificate, self._root(key, now)])

    def promote(self) -> None:
        """From SPREADING to REPLACING: the new one signs, the old one is trusted still."""
        assert self.stage is CaStage.SPREADING
        self._next.rename(self.directory / "ca.key")
        self._load()
        self._write(self._bundle)

    def retire(self) -> None:
        """From REPLACING to STEADY: the old one is nothing any more."""
        assert self.stage is CaStage.REPLACING
        self._write([self.certificate])

    def issue_worker(self, csr: bytes, worker: WorkerName, now: float) -> x509.Certificate:
        """For the key of a request in DER, whose signature proves that the asker has it. Raise
        Denied for a request that will not do."""
        if len(csr) > CSR_MAX_BYTES:
            raise Denied(f"a request of {len(csr)} bytes: at most {CSR_MAX_BYTES}")
        try:
            request = x509.load_der_x509_csr(csr)
            key = request.public_key()
            is_signed = request.is_signature_valid
        except UNREADABLE as error:
            raise Denied(f"a request that cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise Denied("a request for another key than ECDSA on P-256")
        if not is_signed:
            raise Denied("a request that its own key did not sign")
        uri = worker_uri(self.cluster, worker)
        return self._sign(key, worker, [x509.UniformResourceIdentifier(uri)], now, WORKER_LIFE_S)

    def issue_master(self, hosts: Sequence[str], now: float) -> None:
        """Write `master.key` and `master.pem`, good for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = self._master_names(hosts)
        certificate = self._sign(key.public_key(), "master", names, now, MASTER_LIFE_S)
        write_private(self.directory / "master.key", key_pem(key))
        chain = certificate.public_bytes(Encoding.PEM) + _read(self.directory / "heirs.pem")
        write_private(self.directory / "master.pem", chain)

    def master_renew_at(self, hosts: Sequence[str]) -> float:
        """When half the life of the master's certificate is over; 0.0 when there is none of this
        CA, for these hosts and with its key."""
        try:
            certificate = x509.load_pem_x509_certificate(
                (self.directory / "master.pem").read_bytes()
            )
            key = _load_key(self.directory / "master.key")
            certificate.verify_directly_issued_by(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return 0.0
        if (
            list(names.value) != self._master_names(hosts)
            or key.public_key() != certificate.public_key()
        ):
            return 0.0  # another host, or the machine stopped between the two files
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return (begin.timestamp() + end.timestamp()) / 2

    def _master_names(self, hosts: Sequence[str]) -> list[x509.GeneralName]:
        uri = x509.UniformResourceIdentifier(master_uri(self.cluster))
        return [uri, *map(_general_name, hosts)]

    def _make(self, now: float) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(self.directory / "ca.key", key_pem(key))
        self._write([self._root(key, now)])

    def _root(self, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
        return self._ca(key.public_key(), key, now, now + CA_LIFE_S)

    def _ca(
        self,
        key: ec.EllipticCurvePublicKey,
        signer: ec.EllipticCurvePrivateKey,
        now: float,
        end: float,
    ) -> x509.Certificate:
        """All CAs of a cluster have one name."""
        name = _subject(f"corps {self.cluster}")
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        return (
            _builder(name, name, key, now, end - now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_ca=True), critical=True)
            .add_extension(authority, critical=False)
            .sign(signer, hashes.SHA256())
        )

    def _keep(self, name: str, newest: x509.Certificate) -> None:
        """With those before it, as many as are kept."""
        pem = _read(self.directory / name)
        kept = [] if not pem else x509.load_pem_x509_certificates(pem)
        kept = [newest, *(one for one in kept if one != newest)][:FORMER_KEPT]
        write_private(self.directory / name, _pem(kept))

    def _load(self) -> None:
        """Raise ValueError when no CA that is trusted is ours."""
        self._key = _load_key(self.directory / "ca.key")
        found = x509.load_pem_x509_certificates((self.directory / "ca.pem").read_bytes())
        ours = self._key.public_key()
        self._bundle = sorted(found, key=lambda one: one.public_key() != ours)
        if self.certificate.public_key() != ours:
            raise ValueError("'ca.key' is the key of none of the certificates in 'ca.pem'")

    def _write(self, bundle: Sequence[x509.Certificate]) -> None:
        write_private(self.directory / "ca.pem", _pem(bundle))
        self._bundle = list(bundle)

    @property
    def _next(self) -> Path:
        return self.directory / "next.key"

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        now: float,
        life_s: float,
    ) -> x509.Certificate:
        """For both ends of a connection: workers are clients of the master, and of each other."""
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            _builder(_subject(name), self.certificate.subject, key, now, life_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    check_private(path)
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"'{path}' is no ECDSA key", field="key")
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: float,
    life_s: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - EARLY_S))
        .not_valid_after(_moment(now + life_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _moment(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)

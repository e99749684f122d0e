"""From a certificate to an identity."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from corps.errors import Denied
from corps.model.identity import Identity, parse_uri
from corps.model.token import pin_of

AUTHORITIES_MAX_BYTES = 16 << 10
UNREADABLE = (  # what the library raises for certificates and requests that somebody made up
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


Keyed: TypeAlias = x509.Certificate | ec.EllipticCurvePrivateKey


def key_of(keyed: Keyed) -> str:
    """SHA-256 of its public key, in hex."""
    return hashlib.sha256(_public_key(keyed)).hexdigest()


def pin_of_ca(certificate: x509.Certificate) -> str:
    """As tokens have it."""
    return pin_of(_public_key(certificate))


def identity_of(der: bytes | None) -> Identity:
    """Of the peer's certificate, whose chain the handshake has verified. Raise Denied."""
    if der is None:
        raise Denied("no certificate: join first, with 'corps worker --token'")
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key, expires_at = key_of(certificate), certificate.not_valid_after_utc.timestamp()
    except UNREADABLE as error:
        raise Denied(f"a certificate that names nobody: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Denied(f"a certificate that names {len(uris)} identities: it must be one")
    cluster, worker = parse_uri(uris[0])
    return Identity(
        cluster=cluster,
        worker=worker,
        key=key,
        serial=f"{certificate.serial_number:x}",
        expires_at=expires_at,
    )


def is_signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except UNREADABLE:
        return False
    return True


def load_authorities(pem: bytes) -> list[x509.Certificate]:
    """Raise ValueError for what are no CAs, or too many."""
    if len(pem) > AUTHORITIES_MAX_BYTES:
        raise ValueError(f"{len(pem)} bytes of CAs: at most {AUTHORITIES_MAX_BYTES}")
    return x509.load_pem_x509_certificates(pem)


def by_pin(pem: bytes) -> dict[str, x509.Certificate]:
    """CAs (PEM) as tokens call them. Raise one of UNREADABLE."""
    return {pin_of_ca(one): one for one in load_authorities(pem)}


def _public_key(keyed: Keyed) -> bytes:
    return keyed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

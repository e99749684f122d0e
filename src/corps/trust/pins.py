"""Which CA a token means."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from corps.errors import ProtocolError
from corps.model.token import pin_of


def pinned(authorities: str, pin: str) -> str | None:
    """The one of these (PEM) whose key has the pin, in PEM."""
    try:
        found = x509.load_pem_x509_certificates(authorities.encode())
    except ValueError as error:
        raise ProtocolError("its CA cannot be read") from error
    for one in found:
        key = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if pin_of(key) == pin:
            return one.public_bytes(Encoding.PEM).decode("ascii")
    return None

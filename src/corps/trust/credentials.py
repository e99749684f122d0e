"""What a worker has of its cluster: `key.pem`, which never leaves it, `cert.pem` and `ca.pem`."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from corps.errors import Unavailable
from corps.model.identity import Identity
from corps.trust.authority import key_pem
from corps.trust.contexts import client_context, server_context
from corps.trust.files import check_private, write_private
from corps.trust.names import identity_of

DIRECTORY = "trust"


class Credentials:
    """Those in `directory`, which may not be there yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key, self._certificate = directory / "key.pem", directory / "cert.pem"
        self._authorities = directory / "ca.pem"

    @property
    def are_there(self) -> bool:
        return self._certificate.exists()

    def identity(self) -> Identity:
        """Whom they make of us. Raise Unavailable, or Denied for what others can read."""
        check_private(self._key)
        certificate = x509.load_pem_x509_certificate(self._read(self._certificate))
        return identity_of(certificate.public_bytes(Encoding.DER))

    def client_context(self) -> ssl.SSLContext:
        return client_context(self.authorities, self._certificate, self._key)

    def server_context(self) -> ssl.SSLContext:
        return server_context(self._certificate, self._key, self.authorities)

    @property
    def authorities(self) -> str:
        """The CAs that are trusted, in PEM."""
        return self._read(self._authorities).decode("ascii")

    def save(self, key: ec.EllipticCurvePrivateKey, certificate: bytes, authorities: bytes) -> None:
        """In PEM. The certificate last: with it they are there."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        write_private(self._key, key_pem(key))
        write_private(self._authorities, authorities)
        write_private(self._certificate, certificate)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unavailable(
                f"cannot read '{path}': {error.strerror}; join again with a new token"
            ) from error

"""What a worker has of its cluster: `key.pem`, which never leaves it, `cert.pem`, `ca.pem`, and in
`token` by which token it joined.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from corps.errors import Unavailable
from corps.model.identity import Identity
from corps.trust.authority import key_pem
from corps.trust.contexts import client_context, server_context
from corps.trust.files import check_private, write_private
from corps.trust.names import identity_of, is_signed, load_authorities, pin_of_ca

DIRECTORY = "trust"


class Credentials:
    """Those in `directory`, which may not be there yet. What cannot be read raises Unavailable,
    what others can read Denied."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key, self._certificate = directory / "key.pem", directory / "cert.pem"
        self._authorities, self._token = directory / "ca.pem", directory / "token"

    @property
    def are_there(self) -> bool:
        return self._certificate.exists()

    @property
    def token(self) -> str:
        """The id of the token by which they came, empty when nobody knows any more."""
        return self._read(self._token).decode() if self._token.exists() else ""

    def identity(self) -> Identity:
        """Whom they make of us."""
        self.key()
        return identity_of(self._issued().public_bytes(Encoding.DER))

    def key(self) -> ec.EllipticCurvePrivateKey:
        return read_key(self._key)

    def spent(self, now: float) -> float:
        """How much of the certificate's life is over: 0 when it was just given, 1 at its end.

        By how long the file has been here: the wall clock, `now`, need not be the master's.
        """
        issued = self._issued()
        life_s = (issued.not_valid_after_utc - issued.not_valid_before_utc).total_seconds()
        age_s = now - self._certificate.stat().st_mtime
        return age_s / life_s if age_s >= 0 else 1.0  # the clock was set back: it may be any age

    def client_context(self) -> ssl.SSLContext:
        return client_context(self.authorities, self._certificate, self._key)

    def server_context(self) -> ssl.SSLContext:
        return server_context(self._certificate, self._key, self.authorities)

    @property
    def authorities(self) -> str:
        """The CAs that are trusted, in PEM."""
        return self._read(self._authorities).decode("ascii")

    def pins(self) -> tuple[tuple[str, ...], str]:
        """Of the CAs that are trusted, and of the one of them that issued the certificate."""
        known, issued = load_authorities(self.authorities.encode()), self._issued()
        issuers = [pin_of_ca(one) for one in known if is_signed(issued, one)]
        return tuple(map(pin_of_ca, known)), issuers[0] if issuers else ""

    def save(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: bytes,
        authorities: bytes,
        token: str = "",
    ) -> None:
        """In PEM. The certificate last: with it they are there."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._certificate.unlink(missing_ok=True)  # it may be of another key
        write_private(self._key, key_pem(key))
        write_private(self._authorities, authorities)
        write_private(self._token, token.encode())
        write_private(self._certificate, certificate)

    def replace(self, certificate: bytes, authorities: bytes) -> None:
        """For the same key, in PEM."""
        self.trust(authorities)
        write_private(self._certificate, certificate)

    def trust(self, authorities: bytes) -> None:
        """These CAs from now on, in PEM."""
        write_private(self._authorities, authorities)

    def _issued(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read(self._certificate))
        except ValueError as error:
            raise _unreadable(self._certificate, str(error)) from error

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Of a worker. Raise as Credentials does."""
    try:
        check_private(path)
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unreadable(path, "no ECDSA key")
    return key


def _unreadable(path: Path, why: str) -> Unavailable:
    return Unavailable(f"cannot read '{path}': {why}; join again with a new token")

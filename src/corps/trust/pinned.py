"""Is this the master that a token was made for? Asked before anything is said to it."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from corps.errors import Denied, ProtocolError
from corps.trust.names import UNREADABLE, by_pin, identity_of, is_signed, load_authorities


def pinned(authorities: str, pin: str) -> str | None:
    """The one of these CAs (PEM) that a token means, in PEM."""
    try:
        found = by_pin(authorities.encode()).get(pin)
    except UNREADABLE as error:
        raise ProtocolError("its CA cannot be read") from error
    return None if found is None else found.public_bytes(Encoding.PEM).decode("ascii")


def check_master(leaf: bytes, authorities: bytes, pin: str, now: float) -> str:
    """The cluster of the master that showed `leaf` (DER) in the handshake, and says that these
    are its CAs (PEM). Raise Denied unless the pinned one of them signed it."""
    try:
        pins, certificate = by_pin(authorities), x509.load_der_x509_certificate(leaf)
    except UNREADABLE as error:
        raise Denied(f"the other end shows no CA that can be read: {error}") from error
    if pin not in pins:
        raise Denied(
            "the other end is not the master that this token was made for, or its CA was rotated "
            "since (E_CA_PIN): nothing was said to it; check the address, or make a new token"
        )
    if not is_signed(certificate, pins[pin]):
        raise Denied(
            "the certificate of the other end is not signed by the CA of this token's master "
            "(E_CA_PIN): nothing was said to it"
        )
    check_dates(certificate, now)
    identity = identity_of(leaf)
    if identity.worker is not None:
        raise Denied(f"the other end is worker {identity.worker}, not the master (E_CA_PIN)")
    return identity.cluster


def check_dates(certificate: x509.Certificate, now: float) -> None:
    """Raise Denied when this machine's clock is wrong, or theirs."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin.timestamp() <= now <= end.timestamp():
        return
    here = datetime.datetime.fromtimestamp(now, datetime.UTC)
    raise Denied(
        f"by the clock of this machine it is {_spell(here)}, and the certificate of the master "
        f"holds from {_spell(begin)} to {_spell(end)} (E_CLOCK): set the clock of the one that is "
        "wrong"
    )


def check_issued(certificate: bytes, authorities: bytes, key: str, cluster: str) -> str:
    """What a master gave us (PEM), for our `key`: the worker that we are by it. Raise Denied."""
    try:
        issued = x509.load_pem_x509_certificate(certificate)
        known = load_authorities(authorities)
        if not any(is_signed(issued, one) for one in known):
            raise ValueError("none of its CAs signed it")
    except UNREADABLE as error:
        raise Denied(f"the master gave a certificate that will not do: {error}") from error
    identity = identity_of(issued.public_bytes(Encoding.DER))
    if identity.worker is None or (identity.cluster, identity.key) != (cluster, key):
        raise Denied("the master gave a certificate of somebody else")
    return identity.worker


def _spell(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

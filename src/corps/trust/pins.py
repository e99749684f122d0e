"""Which CA a token means."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from corps.errors import ProtocolError
from corps.trust.names import UNREADABLE, load_authorities, pin_of_ca


def pinned(authorities: str, pin: str) -> str | None:
    """The one of these (PEM) whose key has the pin, in PEM."""
    try:
        found = load_authorities(authorities.encode())
        pins = {pin_of_ca(one): one for one in found}
    except UNREADABLE as error:
        raise ProtocolError("its CA cannot be read") from error
    return pins[pin].public_bytes(Encoding.PEM).decode("ascii") if pin in pins else None

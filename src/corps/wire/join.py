"""The join connection: how a worker gets its certificate, and later the next one.

    master                              worker
    Offer  -------------------------->  knows the master by the pin in its token, or by its CA
           <--------------------------  Join, or Renew with its present certificate
    Joined or Refused  -------------->

The secret of a token never travels: the proof is worth something only to the master whose
certificate this handshake showed, for this request, on this connection.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeAlias

from corps.model.name import WorkerName
from corps.wire.message import Message

NONCE_BYTES = 32
FRAME_MAX_BYTES = 32 << 10
_LABEL = b"corps-join-1"


class Offer(Message, frozen=True, kw_only=True):
    """The master speaks first. `authorities`: its CAs, in PEM."""

    cluster: str
    authorities: bytes
    nonce: bytes


class Join(Message, frozen=True, kw_only=True):
    """`worker`: what it must be called, empty for what the token says, or else `host`. `request`:
    a certificate request (PKCS #10) in DER."""

    token: str
    worker: WorkerName
    host: WorkerName
    nonce: bytes
    request: bytes
    proof: bytes


class Renew(Message, frozen=True, kw_only=True):
    """A new certificate for the key of the present one."""

    request: bytes


class Joined(Message, frozen=True, kw_only=True):
    """Durable at the master. Both in PEM."""

    worker: WorkerName
    certificate: bytes
    authorities: bytes


class Refused(Message, frozen=True, kw_only=True):
    """One text for all that is wrong with a token: the reason is for the master's own log."""

    code: str
    message: str


ToMaster: TypeAlias = Join | Renew
ToJoining: TypeAlias = Offer | Joined | Refused


def prove(secret_hash: str, leaf: bytes, offer: Offer, nonce: bytes, request: bytes) -> bytes:
    """What only somebody with the secret can say, or who knows its SHA-256. `leaf`: the
    certificate in DER that the master showed in this handshake."""
    said = (
        _LABEL
        + hashlib.sha256(leaf).digest()
        + offer.nonce
        + nonce
        + hashlib.sha256(request).digest()
    )
    return hmac.digest(bytes.fromhex(secret_hash), said, "sha256")

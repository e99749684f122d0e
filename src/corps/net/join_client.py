"""Getting a certificate from a master: the first by a token, the next by the present one.

Blocking, for a thread or before a daemon begins. Each raises OSError when nobody is there, and
Unavailable when it is to be tried again. Denied is a master's own word; of `join` also, that it is
not the right one.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from corps.clock import Clock
from corps.errors import Denied, ProtocolError, Unavailable, error_of
from corps.model.name import WorkerName
from corps.model.token import Token, hash_secret
from corps.net.address import format_address
from corps.net.channel import Channel
from corps.trust.contexts import (
    UNRECOGNIZED_NAME,
    Purpose,
    stranger_context,
    why_unverified,
)
from corps.trust.credentials import Credentials
from corps.trust.names import identity_of, key_of
from corps.trust.pinned import check_issued, check_master
from corps.wire.join import NONCE_BYTES, Join, Joined, Offer, Refused, Renew, ToJoining, prove

DEADLINE_S = 10.0
T = TypeVar("T")


def join(
    address: tuple[str, int],
    token: Token,
    name: WorkerName | None,
    host: WorkerName,
    key: ec.EllipticCurvePrivateKey,
) -> Joined:
    """As `name`, or as the token says, or as `host`. The master is proven to be the token's before
    it is told anything."""
    channel, leaf = _dial(address, stranger_context())
    try:
        offer = _hear(channel, Offer)
        cluster = check_master(leaf, offer.authorities, token.pin, Clock()())
        if cluster != offer.cluster:
            raise Denied(f"the master says that it is of cluster {offer.cluster[:80]!r}")
        request, nonce = _request(key), os.urandom(NONCE_BYTES)
        channel.send(
            Join(
                token=token.id,
                worker=name or "",
                host=host,
                nonce=nonce,
                request=request,
                proof=prove(hash_secret(token.secret), leaf, offer, nonce, request),
            )
        )
        joined = _hear(channel, Joined)
        _check(joined, key, cluster, name)
        return joined
    finally:
        channel.close()


def renew(address: tuple[str, int], credentials: Credentials) -> Joined:
    """For the same key and name, and with the CAs that are to be trusted from now on."""
    key, identity = credentials.key(), credentials.identity()
    channel, leaf = _dial(address, credentials.client_context())
    try:
        master = identity_of(leaf)
        if (master.cluster, master.worker) != (identity.cluster, None):
            raise Unavailable(
                f"at {format_address(address)} is no master of this worker (E_CA_PIN)"
            )
        _hear(channel, Offer)
        channel.send(Renew(request=_request(key)))
        joined = _hear(channel, Joined)
        _check(joined, key, identity.cluster, identity.worker)
        return joined
    finally:
        channel.close()


def _dial(address: tuple[str, int], context: ssl.SSLContext) -> tuple[Channel[ToJoining], bytes]:
    """And the certificate that the other end showed."""
    plain = socket.create_connection(address, timeout=DEADLINE_S)
    try:
        sock = context.wrap_socket(plain, server_hostname=Purpose.JOIN)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise Unavailable(why_unverified(format_address(address), error)) from error
    except OSError as error:
        plain.close()
        if isinstance(error, ssl.SSLError) and error.reason == UNRECOGNIZED_NAME:
            raise Unavailable(
                f"no workers are served at {format_address(address)}: give the address of the "
                "master's --listen, not of its --api"
            ) from error
        raise
    leaf = sock.getpeercert(binary_form=True)
    assert leaf is not None  # a server of TLS 1.3 has one
    return Channel(sock, ToJoining, stall_s=DEADLINE_S), leaf


def _hear(channel: Channel[ToJoining], kind: type[T]) -> T:
    said = channel.receive()
    if isinstance(said, kind):
        return said
    if isinstance(said, Refused):
        raise error_of(said.code, said.message, {})
    if said is None:
        raise Unavailable("the master ended the connection: try again in a moment")
    raise ProtocolError(f"the master said {type(said).__name__}, not {kind.__name__}")


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """It names nobody: the master says who we are."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _check(
    joined: Joined, key: ec.EllipticCurvePrivateKey, cluster: str, name: WorkerName | None
) -> None:
    worker = check_issued(joined.certificate, joined.authorities, key_of(key), cluster)
    if worker != joined.worker or name not in (None, worker):
        raise Denied(f"the master calls this worker {worker!r}, not {name or joined.worker!r}")

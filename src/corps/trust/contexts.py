"""TLS as corps speaks it: 1.3 only, no tickets, both ends by the cluster's own CA (ssl(3)).

Host names say nothing here: whom a certificate names is read from it after the handshake
(trust/names.py). What a connection is for is told by the server name of its hello (RFC 6066), so
that the other end knows how to serve it before the handshake.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from pathlib import Path

UNRECOGNIZED_NAME = "TLSV1_UNRECOGNIZED_NAME"  # what ssl calls the alert of a port for others
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: whoever uses it looks at the dates itself


class Purpose(StrEnum):
    """Server names that workers and remote operators connect with."""

    CONTROL = "control.corps"
    BULK = "bulk.corps"
    SWARM = "swarm.corps"
    JOIN = "join.corps"


def server_context(
    certificate: Path, key: Path, authorities: str, *, wants_client: bool = True
) -> ssl.SSLContext:
    """A client may come without a certificate, for `join`; one that it shows must be of these CAs
    (PEM). It may have expired: the server looks at that, as an expired one may be renewed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    if wants_client:
        context.load_verify_locations(cadata=authorities)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def client_context(
    authorities: str, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """The server must be of these CAs (PEM) and in date; who it is is read afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authorities)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def stranger_context() -> ssl.SSLContext:
    """Of who has no CA yet: it knows the other end by the pin of a token, after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def why_unverified(where: str, error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with the certificate of whoever is there in place of a worker's master."""
    why = error.verify_message
    if "not yet valid" in why or "expired" in why:
        return (
            f"the certificate of the master at {where}: {why} (E_CLOCK): set this machine's clock"
        )
    return (
        f"at {where} is not the master that this worker joined (E_CA_PIN): {why}; check the "
        "address, or join again with a new token"
    )


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION

"""The master's end of the join connection: a token, or a certificate, against a new certificate.

What is wrong with a token is for our own audit trail: to the other end an unknown one, a wrong
secret and one that is used up are the same, and each costs a second.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from collections import deque
from typing import assert_never

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from corps.core.events import Enroll, Renew
from corps.errors import CorpsError, Denied, ProtocolError, Unavailable
from corps.master.certificates import Certificates
from corps.master.driver import MasterDriver
from corps.model.command import Failure, Ruled
from corps.model.identity import Identity
from corps.model.name import check_name
from corps.model.trail import NOBODY, Deed, Outcome
from corps.net.front import source_of
from corps.trust.names import identity_of, key_of
from corps.wire import join as wire
from corps.wire.codec import HEADER, decode_payload, encode_frame, frame_length

DEADLINE_S = 10.0
COMMIT_S = 20.0
WRONG_S = 1.0
FAILURES_MAX = 10  # of one source within FAILURES_S
FAILURES_S = 60.0
SOURCES_MAX = 10_000
REFUSED = (
    "the master does not take this token (E_TOKEN): it may have expired, be revoked or used up, or "
    "be for another name, or the name is taken; 'corps audit trail' says which, and 'corps token "
    "create' makes a new one"
)

_log = logging.getLogger("corps.master")
_DECODER: msgspec.msgpack.Decoder[wire.ToMaster] = msgspec.msgpack.Decoder(wire.ToMaster)


class Joins:
    """Serves connections for Purpose.JOIN, one question each."""

    def __init__(self, driver: MasterDriver, certificates: Certificates) -> None:
        self._driver, self._certificates = driver, certificates
        self._loop = asyncio.get_running_loop()
        self._failures: dict[str, deque[float]] = {}

    async def serve(self, sock: socket.socket, address: str) -> None:
        """From the handshake to the end; closes the socket."""
        reader = asyncio.StreamReader(limit=wire.FRAME_MAX_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        leaf = b""
        try:
            context = self._certificates.workers_context()
            leaf = self._certificates.leaf
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=context, ssl_handshake_timeout=DEADLINE_S
            )
        except (OSError, CorpsError) as error:
            _log.info("%s: no handshake for join: %s", address, error)
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            await self._answer(reader, writer, leaf, address)
        except (OSError, EOFError, TimeoutError, ProtocolError) as error:
            _log.info("%s: the join connection ended: %s", address, error)
        finally:
            transport.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, leaf: bytes, address: str
    ) -> None:
        authority = self._certificates.authority
        offer = wire.Offer(
            cluster=authority.cluster,
            authorities=authority.bundle_pem,
            nonce=secrets.token_bytes(wire.NONCE_BYTES),
        )
        writer.write(encode_frame(offer))
        async with asyncio.timeout(DEADLINE_S):
            asked = await _hear(reader)
        match asked:
            case wire.Join():
                answer = await self._join(asked, leaf, offer, address)
            case wire.Renew():
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                answer = await self._renew(asked, shown, address)
            case _:
                assert_never(asked)
        writer.write(encode_frame(answer))
        async with asyncio.timeout(DEADLINE_S):
            await writer.drain()

    async def _join(
        self, asked: wire.Join, leaf: bytes, offer: wire.Offer, address: str
    ) -> wire.Joined | wire.Refused:
        source = source_of(address.rpartition(":")[0].strip("[]"))
        if self._is_over_limit(source):
            text = f"{FAILURES_MAX} tokens were refused to this address: try again in a minute"
            return wire.Refused(code=Unavailable.code, message=text)
        try:
            self._check_proof(asked, leaf, offer)
            token = self._driver.core.cluster.roll.join_tokens[asked.token]
            worker = check_name("worker", asked.worker or token.worker or asked.host)
        except CorpsError as error:
            self._witness(f"token {asked.token}", "join", address, error.message)
            return await self._refuse(source, address, error.message)
        try:
            issued = self._certificates.authority.issue_worker(
                asked.request, worker, self._driver.clock()
            )
        except Denied as error:
            self._witness(f"token {asked.token}", "join", address, error.message)
            return wire.Refused(code=error.code, message=f"{error.message} (E_CSR)")
        event = Enroll(
            id=secrets.token_hex(16),
            token=token.id,
            worker=worker,
            key=key_of(issued),
            serial=f"{issued.serial_number:x}",
            expires_at=issued.not_valid_after_utc.timestamp(),
            address=address,
        )
        refusal = await self._decide(event)
        if refusal is None:
            return self._joined(worker, issued)
        if refusal.code == Unavailable.code:
            return refusal
        return await self._refuse(source, address, refusal.message)

    async def _renew(
        self, asked: wire.Renew, shown: bytes | None, address: str
    ) -> wire.Joined | wire.Refused:
        try:
            identity: Identity = identity_of(shown)
            if identity.worker is None:
                raise Denied("only workers renew here")
            issued = self._certificates.authority.issue_worker(
                asked.request, identity.worker, self._driver.clock()
            )
            if key_of(issued) != identity.key:
                raise Denied("a request for another key than that of the certificate (E_CSR)")
        except Denied as error:
            self._witness(NOBODY, "renew", address, error.message)
            return wire.Refused(code=error.code, message=error.message)
        event = Renew(
            id=secrets.token_hex(16),
            identity=identity,
            serial=f"{issued.serial_number:x}",
            expires_at=issued.not_valid_after_utc.timestamp(),
            address=address,
        )
        refusal = await self._decide(event)
        if refusal is None:
            return self._joined(identity.worker, issued)
        return refusal

    def _joined(self, worker: str, issued: x509.Certificate) -> wire.Joined:
        return wire.Joined(
            worker=worker,
            certificate=issued.public_bytes(Encoding.PEM),
            authorities=self._certificates.authority.bundle_pem,
        )

    def _check_proof(self, asked: wire.Join, leaf: bytes, offer: wire.Offer) -> None:
        """In the same time and by the same steps whether there is such a token or not."""
        token = self._driver.core.cluster.roll.join_tokens.get(asked.token)
        secret_hash = secrets.token_hex(32) if token is None else token.secret_hash
        proof = wire.prove(secret_hash, leaf, offer, asked.nonce, asked.request)
        is_proven = hmac.compare_digest(proof, asked.proof)
        if token is None:
            raise Denied(f"no token {asked.token[:80]!r}")
        if not is_proven or len(asked.nonce) != wire.NONCE_BYTES:
            raise Denied(f"a wrong secret for token {asked.token}")

    async def _decide(self, event: Enroll | Renew) -> wire.Refused | None:
        """None: it is durable."""
        try:
            result = await self._driver.submit(event, COMMIT_S)
        except Unavailable as error:
            return wire.Refused(code=error.code, message=error.message)
        match result:
            case Ruled():
                return None
            case Failure():
                return wire.Refused(code=result.code, message=result.message)
            case _:
                text = "the master's store is slow: try again in a moment"
                return wire.Refused(code=Unavailable.code, message=text)

    def _witness(self, who: str, act: str, address: str, why: str) -> None:
        self._driver.witness(
            Deed(
                who=who,
                act=act,
                outcome=Outcome.DENIED,
                source=address.rpartition(":")[0],
                detail=why,
            )
        )

    async def _refuse(self, source: str, address: str, why: str) -> wire.Refused:
        if len(self._failures) >= SOURCES_MAX and source not in self._failures:
            del self._failures[next(iter(self._failures))]
        self._failures.setdefault(source, deque(maxlen=FAILURES_MAX)).append(self._loop.time())
        _log.warning("%s: refused to join: %s", address, why)
        await asyncio.sleep(WRONG_S)
        return wire.Refused(code=Denied.code, message=REFUSED)

    def _is_over_limit(self, source: str) -> bool:
        failures = self._failures.get(source, deque())
        is_full = len(failures) == FAILURES_MAX
        return is_full and self._loop.time() - failures[0] < FAILURES_S


async def _hear(reader: asyncio.StreamReader) -> wire.ToMaster:
    header = bytearray(await reader.readexactly(HEADER.size))
    length = frame_length(header, 0, wire.FRAME_MAX_BYTES)
    return decode_payload(_DECODER, memoryview(await reader.readexactly(length)))

"""The port of the workers: who comes with TLS is whom its certificate names.

In plain text it is taken on loopback only, from a process of root or of the master's own user, as
the kernel says: another user of this machine, or an app under one, is no worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from corps.config import Settings
from corps.errors import Denied
from corps.master.certificates import Certificates
from corps.master.driver import MasterDriver
from corps.master.library import Library
from corps.master.sessions import Sessions, identify, listen
from corps.model.identity import Identity
from corps.model.name import Digest
from corps.model.trail import NOBODY, Deed, Outcome
from corps.net.address import format_address, is_loopback, parse_address
from corps.net.front import Caller, Front
from corps.net.handshake import receive_exactly, shake_hands
from corps.net.owner import is_trusted, owner_of
from corps.store.blobs import BlobStore
from corps.trust.contexts import Purpose
from corps.wire.bulk import Trouble
from corps.wire.codec import (
    BULK_PREFACE,
    CONTROL_PREFACE,
    PREFACE_BYTES,
    SWARM_PREFACE,
    encode_frame,
)
from corps.wire.worker import Refused

if TYPE_CHECKING:
    from corps.master.join import Joins

PREFACE_S = 5.0


class Door:
    """What is behind the front door of the workers; `front.serves` may be given more purposes."""

    def __init__(
        self,
        listener: socket.socket,
        certificates: Certificates,
        sessions: Sessions,
        library: Library,
    ) -> None:
        self.address = format_address(listener.getsockname()[:2])
        self.is_local = is_loopback(listener.getsockname()[0])
        self.front = Front(
            listener,
            {Purpose.CONTROL: self._control, Purpose.BULK: self._read, Purpose.SWARM: self._read},
        )
        if self.is_local:
            self.front.serves[None] = self._plain
        self._listener, self._certificates = listener, certificates
        self._sessions, self._library = sessions, library
        self.on_refused: Callable[[str, str], None] = lambda address, why: None
        sessions.on_refused = self._complain

    def work(self) -> tuple[Coroutine[None, None, None], ...]:
        """What is to run until the daemon ends."""
        return self._accept(), self._sessions.sweep(), self._library.watch()

    def close(self) -> None:
        self.front.close()
        self._sessions.close()

    async def _accept(self) -> None:
        with self._listener:
            await self.front.accept()

    async def _control(self, caller: Caller) -> None:
        await self._sessions.open(caller, self._certificates.workers_context())

    async def _read(self, caller: Caller) -> None:
        """The handshake here, without a thread: whoever gets one has a certificate of ours."""
        sock = await shake_hands(caller.sock, self._certificates.workers_context())
        with contextlib.ExitStack() as failing:
            failing.enter_context(sock)
            try:
                identity = identify(sock.getpeercert(True))
            except Denied as error:
                self._complain(caller, error.message)
                return
            async with asyncio.timeout(PREFACE_S):
                preface = await receive_exactly(sock, PREFACE_BYTES)
            failing.pop_all()
        self._library.serve(preface, sock, identity)

    async def _plain(self, caller: Caller) -> None:
        async with asyncio.timeout(PREFACE_S):
            preface = await receive_exactly(caller.sock, PREFACE_BYTES)
        uid = owner_of(caller.sock)
        if preface not in (CONTROL_PREFACE, BULK_PREFACE, SWARM_PREFACE):
            self._complain(caller, f"no worker of ours: it said {preface!r}")
            caller.sock.close()
        elif not is_trusted(uid):
            who = "gone again" if uid is None else f"a process of uid {uid}"
            text = (
                f"{who}: in plain text only root and uid {os.geteuid()} of this machine may come; "
                "join with a token"
            )
            kind = Refused if preface == CONTROL_PREFACE else Trouble
            with contextlib.suppress(OSError):
                caller.sock.send(encode_frame(kind(code=Denied.code, message=text)))
            self._complain(caller, text)
            caller.sock.close()
        elif preface == CONTROL_PREFACE:
            await self._sessions.open(caller, None)
        else:
            self._library.serve(preface, caller.sock, None)

    def _complain(self, caller: Caller, why: str) -> None:
        self.front.complain(caller.source, f"{caller.address} is turned away: {why}")
        self.on_refused(caller.address, why)


def open_door(
    settings: Settings, driver: MasterDriver, blobs: BlobStore, certificates: Certificates
) -> Door:
    """Listening, and not accepting yet. Raise Conflict when the address cannot be had."""
    host, port = parse_address(settings.listen)
    if not is_loopback(host):
        certificates.workers_context()  # what is wrong with it is told now
    library = Library(blobs, functools.partial(_judge, driver))
    sessions = Sessions(driver, silence_s=2 * settings.heartbeat_s)
    door = Door(listen(host, port), certificates, sessions, library)
    door.on_refused = functools.partial(_witness, driver, NOBODY, "connect")
    door.front.serves[Purpose.JOIN] = Registry(driver, certificates).serve
    return door


class Registry:
    """Joins, loaded when somebody comes to join."""

    def __init__(self, driver: MasterDriver, certificates: Certificates) -> None:
        self._driver, self._certificates = driver, certificates
        self._joins: Joins | None = None

    async def serve(self, caller: Caller) -> None:
        if self._joins is None:
            from corps.master.join import Joins  # noqa: PLC0415  # what reads certificates: 8 MB

            self._joins = Joins(self._driver, self._certificates)
        await self._joins.serve(caller.sock, caller.address)


def _witness(driver: MasterDriver, who: str, act: str, address: str, why: str) -> None:
    """For the audit trail."""
    driver.witness(Deed(who=who, act=act, outcome=Outcome.DENIED, source=address, detail=why))


def _judge(driver: MasterDriver, identity: Identity, artifact: Digest | None) -> str | None:
    """Why that worker may not have the artifact, or is nobody at all."""
    core = driver.core
    refusal = core.refusal(identity)
    if refusal is not None or artifact is None:
        return refusal
    assert identity.worker is not None, "whoever is not refused is a worker"
    if core.may_fetch(identity.worker, artifact):
        return None
    why = f"artifact {artifact[:64]!r} is not assigned to {identity.worker}"
    known = core.cluster.workers.get(identity.worker)
    _witness(driver, identity.worker, "fetch", "" if known is None else known.address, why)
    return why

"""Gather an artifact's units from the master and from peers, and give them on meanwhile.

One thread for each source; what to ask of whom is decided in core/swarm.py. A peer that sends
wrong bytes is not asked again, one that is gone or silent costs what it was asked for last.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from corps.clock import Clock
from corps.core.supply import Member
from corps.core.swarm import MASTER, PEERS_MAX, Swarm, Units, unit_bytes
from corps.errors import CorpsError, Invalid, TimedOut, Unavailable
from corps.model.artifact import Manifest
from corps.model.name import Digest
from corps.net.address import parse_address
from corps.net.bulk_client import BulkClient, Dial
from corps.net.listener import cut
from corps.net.pace import Pace
from corps.net.swarm import Share
from corps.net.swarm_client import SwarmClient
from corps.store.blobs import BlobStore
from corps.worker.crate import Crate
from corps.worker.peers import Peers

CONNECT_S = 3.0
LOOK_S = 1.0
IDLE_S = 0.1
SEEK_EVERY_S = 2.0
RETRY_S = 0.5
QUIET_MAX_S = 30.0
COME_BACK_S = 5.0
WORTH_BYTES = 4 << 20

_log = logging.getLogger("corps.worker")


class Wants(NamedTuple):
    """What a gathering is for, and who hears of it: how many bytes came on the wire, and from a
    peer? And how many are here by that."""

    artifact: Digest
    dial: Dial
    peers: Peers
    on_wire: Callable[[int, bool], None]
    on_done: Callable[[int], None]
    rate_bytes_s: int | None = None


def gather(wants: Wants, manifest: Manifest, blobs: BlobStore) -> None:
    """Bring what lacks of an artifact, if that is worth it. Afterwards little lacks, or much, when
    it failed: the master has it all the same."""
    sizes = {entry.digest: entry.size_bytes for entry in manifest.files}
    if sum(sizes[digest] for digest in blobs.missing(sizes)) < WORTH_BYTES:
        return
    with BulkClient(wants.dial, artifact=wants.artifact) as client:
        crate = Crate(manifest, blobs, lambda digest: client.piece_list(digest).pieces)
    with crate:
        if crate.lacking_bytes < WORTH_BYTES and not crate.is_begun:
            return
        try:
            Gathering(wants, crate).run()
        except CorpsError as error:
            if wants.peers.over.is_set():
                raise
            _log.warning("%s; the rest is asked of the master alone", error.message)


class Gathering:
    """One artifact on its way to this worker; `run` returns when the crate is full."""

    def __init__(self, wants: Wants, crate: Crate) -> None:
        self._wants, self._crate = wants, crate
        self._clock = Clock()
        self._over = threading.Event()
        rate = wants.rate_bytes_s
        self._pace = None if rate is None else Pace(rate, self._over)
        self._swarm = Swarm(len(crate.units), crate.have, random.Random())
        pace = None if rate is None else Pace(rate, wants.peers.over)
        self._share = Share(crate.units, crate.whole, crate.blobs, pace)
        self._changed = threading.Condition()  # guards all below, and the swarm
        self._threads: dict[str, threading.Thread] = {}  # by source
        self._sockets: dict[str, socket.socket] = {}
        self._shunned: dict[str, float] = {}  # address -> until when
        self._error: CorpsError | None = None
        self._port, self._key = 0, wants.peers.key(wants.artifact)
        self._news_at = self._clock()

    def run(self) -> None:
        """Raise what the master says is wrong, or Unavailable when nothing comes any more."""
        with self._wants.peers.sharing(self._wants.artifact, self._share, self._meet):
            try:
                self._start(MASTER, self._ask_master)
                self._wait()
            finally:
                self._end()
        if self._error is not None and not self._swarm.is_done:
            raise self._error

    def _wait(self) -> None:
        peers_over = self._wants.peers.over
        with self._changed:
            while not self._swarm.is_done and self._error is None:
                self._changed.wait(IDLE_S)
                if peers_over.is_set():
                    self._error = Unavailable("this worker ends")
                elif self._clock() - self._news_at > QUIET_MAX_S:
                    self._error = TimedOut(f"no byte came from anyone for {QUIET_MAX_S:g} s")

    def _end(self) -> None:
        """Waits for the threads that talk: those that still dial will find that it is over."""
        self._over.set()
        with self._changed:
            talking = [self._threads[source] for source in self._sockets]
            for sock in self._sockets.values():
                cut(sock)
            self._changed.notify_all()
        for thread in talking:
            thread.join()

    # ---- sources

    def _meet(self, member: Member) -> None:
        """Somebody has units, or fetches them: ask it, unless enough are asked."""
        with self._changed:
            if (
                len(self._threads) <= PEERS_MAX
                and member.address not in self._threads
                and self._shunned.get(member.address, 0.0) <= self._clock()
                and not self._over.is_set()
            ):
                self._start(member.address, lambda: self._ask_peer(member))

    def _start(self, source: str, ask: Callable[[], None]) -> None:
        def run() -> None:
            try:
                ask()
            finally:
                with self._changed:
                    self._swarm.left(source)
                    self._threads.pop(source, None)
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name="gather", daemon=True)
        with self._changed:
            self._threads[source] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: fewer sources
            with self._changed:
                del self._threads[source]

    def _ask_master(self) -> None:
        """Until all is here; a connection that breaks is made anew, as long as anything comes."""
        while not self._is_over():
            try:
                sock = self._wants.dial()
                self._port = self._listen(sock)
                with self._talking(MASTER, sock, "") as client:
                    self._take_from_master(client)
            except OSError as error:
                self._master_failed(Unavailable(f"cannot fetch from the master: {error}"))
            except Unavailable as error:
                self._master_failed(error)
            except CorpsError as error:
                self._fail(error)

    def _take_from_master(self, client: SwarmClient) -> None:
        seek_at = 0.0
        while not self._is_over():
            if self._clock() >= seek_at:
                seek_at = self._clock() + SEEK_EVERY_S
                for member in client.seek(self._port, self._key):
                    self._meet(member)
            wanted = self._wanted()
            if wanted:
                unit, data = client.take_any(wanted, self._master_sends, self._counted(False))
                self._keep(MASTER, unit, data)

    def _wanted(self) -> Units:
        """Waits a moment when there is nothing to ask for now."""
        with self._changed:
            wanted = self._swarm.wanted(self._clock())
            if not wanted and not self._swarm.is_done:
                self._changed.wait(IDLE_S)
            return wanted

    def _master_sends(self, unit: int) -> None:
        with self._changed:
            self._swarm.asked(MASTER, unit, self._clock())

    def _ask_peer(self, member: Member) -> None:
        until = self._clock() + COME_BACK_S
        try:
            sock = self._wants.peers.reach(parse_address(member.address), CONNECT_S)
            with self._talking(member.address, sock, member.key) as client:
                self._take_from_peer(member.address, client)
        except Invalid as error:
            if self._error is None:
                _log.warning("%s is asked no more: %s", member.address, error.message)
            until = float("inf")
        except (OSError, CorpsError) as error:
            if not self._is_over():
                _log.info("nothing more from %s: %s", member.address, error)
        with self._changed:
            self._shunned[member.address] = until

    def _take_from_peer(self, address: str, client: SwarmClient) -> None:
        have, wait_s = 0, 0.0
        while not self._is_over():
            with self._changed:
                self._swarm.holds(address, have)
                unit = self._swarm.next_of(address, self._clock())
            if unit is None:
                have = client.look(have, wait_s, self._port, self._key)
                wait_s = LOOK_S
                continue
            data, have = client.take(unit, self._counted(True))
            self._keep(address, unit, data)

    @contextlib.contextmanager
    def _talking(self, source: str, sock: socket.socket, key: str) -> Iterator[SwarmClient]:
        with SwarmClient(sock, self._wants.artifact, self._crate.units, key) as client:
            with self._changed:
                if self._over.is_set():
                    raise ConnectionError("it is over")
                self._sockets[source] = sock
            try:
                yield client
            finally:
                with self._changed:
                    del self._sockets[source]

    def _listen(self, sock: socket.socket) -> int:
        """0: this worker asks peers, and gives them nothing."""
        if sock.family == socket.AF_UNIX:
            return 0
        try:
            return self._wants.peers.listen(sock.getsockname()[0], sock.family)
        except Unavailable as error:
            _log.warning("%s: this worker gives its peers nothing", error.message)
            return 0

    # ---- what comes of it

    def _counted(self, is_peer: bool) -> Callable[[int], None]:
        def on_bytes(count: int) -> None:
            with self._changed:
                self._news_at = self._clock()
                self._wants.on_wire(count, is_peer)
            if self._pace is not None:
                self._pace.spend(count)

        return on_bytes

    def _keep(self, source: str, unit: int, data: bytes) -> None:
        """Raise Invalid when the bytes are not the unit's."""
        try:
            self._crate.put(unit, data)
        except Invalid:
            with self._changed:
                self._swarm.failed(source, unit)
            raise
        except CorpsError as error:  # the disk: nobody's fault, and nobody can help
            self._fail(error)
            return
        self._share.add(unit)
        with self._changed:
            is_new = not self._swarm.have >> unit & 1
            self._swarm.arrived(source, unit, self._clock())
            if is_new:
                self._wants.on_done(unit_bytes(self._crate.units[unit]))
            self._changed.notify_all()

    def _master_failed(self, error: CorpsError) -> None:
        """Peers may have the rest; without any it is over when it does not come back."""
        with self._changed:
            self._swarm.left(MASTER)
            is_alone = len(self._threads) == 1
            is_quiet = self._clock() - self._news_at > CONNECT_S
        if is_alone and is_quiet:
            self._fail(error)
        self._over.wait(RETRY_S)

    def _fail(self, error: CorpsError) -> None:
        with self._changed:
            self._error = self._error or error
            self._over.set()
            self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._over.is_set() or self._swarm.is_done

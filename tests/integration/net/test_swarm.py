"""Workers fetch from each other: all of it, also when peers lie, are silent, or go away."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corps.core.supply import Member
from corps.errors import Denied, NotFound, ProtocolError, Unavailable
from corps.model.artifact import Transfer
from corps.model.pieces import PIECE_BYTES
from corps.net.address import parse_address
from corps.net.bulk_client import Dial
from corps.net.listener import THREADS_MAX
from corps.net.swarm import share_of
from corps.net.swarm_client import SwarmClient
from corps.store.blobs import BlobStore
from corps.trust.contexts import Purpose
from corps.trust.links import welcome
from corps.wire.codec import SWARM_PREFACE, encode_frame
from corps.wire.swarm import Encoding, Have, Look, SendingUnit, as_bytes
from corps.worker.gather import WORTH_BYTES
from corps.worker.install import ALIKE_WORKERS_MIN
from tests.support.artifacts import a_manifest, digest_of, put_artifact
from tests.support.bulk import Wire
from tests.support.peers import Machine, Told, a_master, ask
from tests.support.tls import TestCa
from tests.support.waiting import until

LARGE = os.urandom(WORTH_BYTES + 2 * PIECE_BYTES + 77)
SMALL = {f"part/{at}": os.urandom(3_000) for at in range(300)}
FILES = {"prog": b"#!/bin/sh\n", "data": LARGE, "twice": LARGE, "empty": b"", **SMALL}
TRAVELS = sum(map(len, FILES.values())) - len(LARGE)
NewMachine = Callable[[str], Machine]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "master", durable=False)


@pytest.fixture
def digest(store: BlobStore) -> str:
    return put_artifact(store, FILES, a_manifest(FILES))


@pytest.fixture
def master(store: BlobStore) -> Iterator[tuple[Dial, Told]]:
    with a_master(store) as made:
        yield made


@pytest.fixture
def dial(master: tuple[Dial, Told]) -> Dial:
    return master[0]


@pytest.fixture
def told(master: tuple[Dial, Told]) -> list[Member]:
    """Whom the master tells of, beside those who ask."""
    return master[1].members


@pytest.fixture
def new_machine(tmp_path: Path) -> Iterator[NewMachine]:
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(tmp_path / name))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def holder(new_machine: NewMachine, digest: str, dial: Dial, told: list[Member]) -> Machine:
    """A machine that has the artifact, and that everybody is told of."""
    machine = new_machine("holder")
    machine.install(digest, dial)
    told.append(machine.serve(digest))
    return machine


def is_right(machine: Machine, digest: str) -> bool:
    return all(machine.file(digest, path) == data for path, data in FILES.items())


def test_workers_give_each_other_what_they_have(
    new_machine: NewMachine, digest: str, dial: Dial
) -> None:
    machines = [new_machine(f"w{number}") for number in range(5)]
    for machine in machines:
        machine.start(digest, dial)
    reports = [machine.join() for machine in machines]
    assert all(is_right(machine, digest) for machine in machines)
    assert sum(report.bytes_from_peers for report in reports) > 0
    for machine, report in zip(machines, reports, strict=True):
        assert report.bytes_from_peers <= report.bytes_sent
        assert report.files_sent == len(FILES) - 1
        assert machine.progress[-1].bytes_done == report.bytes_total
        assert machine.progress[-1].bytes_from_peers == report.bytes_from_peers


def test_one_alone_gets_each_byte_once(new_machine: NewMachine, digest: str, dial: Dial) -> None:
    machine = new_machine("w1")
    report = machine.install(digest, dial)
    assert is_right(machine, digest)
    assert (report.bytes_sent, report.bytes_from_peers) == (TRAVELS, 0)
    assert machine.install(digest, dial).bytes_sent == 0


def test_without_the_swarm_all_comes_from_the_master(
    new_machine: NewMachine, holder: Machine, digest: str, dial: Dial
) -> None:
    machine = new_machine("w1")
    report = machine.install(digest, dial, Transfer(swarm=False))
    assert (report.bytes_sent, report.bytes_from_peers) == (TRAVELS, 0)
    assert is_right(machine, digest)


def test_what_compresses_travels_compressed(
    new_machine: NewMachine, store: BlobStore, dial: Dial
) -> None:
    files = {"prog": b"the same again " * 600_000}
    digest = put_artifact(store, files, a_manifest(files))
    machine = new_machine("w1")
    report = machine.install(digest, dial)
    assert report.bytes_sent < len(files["prog"]) / 10
    assert machine.file(digest, "prog") == files["prog"]
    assert machine.progress[-1].bytes_done == report.bytes_total


def test_a_master_that_breaks_off_is_dialled_again(
    new_machine: NewMachine, digest: str, dial: Dial
) -> None:
    wire = Wire(dial)
    wire.down_bytes = 3 * PIECE_BYTES + 4_321
    machine = new_machine("w1")
    report = machine.install(digest, wire.dial)
    wire.join()
    assert is_right(machine, digest)
    assert report.bytes_sent <= TRAVELS + (wire.dial_count - 2) * PIECE_BYTES


def test_peers_have_the_rest_when_the_master_is_gone(
    new_machine: NewMachine, holder: Machine, digest: str, dial: Dial
) -> None:
    wires: list[Wire] = []

    def dial_for_a_while() -> socket.socket:
        if len(wires) == 3:  # the manifest, the piece list, and one connection of the swarm
            raise ConnectionRefusedError(111, "Connection refused")
        wires.append(Wire(dial))
        if len(wires) == 3:
            wires[-1].down_bytes = PIECE_BYTES // 2
        return wires[-1].dial()

    machine = new_machine("w1")
    report = machine.install(digest, dial_for_a_while)
    for wire in wires:
        wire.join()
    assert is_right(machine, digest)
    assert report.bytes_from_peers >= TRAVELS - PIECE_BYTES


def test_a_peer_that_sends_wrong_bytes_is_found_out_and_asked_no_more(
    new_machine: NewMachine, holder: Machine, digest: str, dial: Dial
) -> None:
    path = holder.blobs.path(digest_of(LARGE))
    path.chmod(0o600)
    path.write_bytes(os.urandom(len(LARGE)))
    machine = new_machine("w1")
    report = machine.install(digest, dial)
    assert is_right(machine, digest)
    # the next unit may be asked for before the first one is found to be wrong
    assert report.bytes_sent <= TRAVELS + 2 * PIECE_BYTES, "two units of it were in vain"


def test_a_peer_whose_files_are_gone_harms_nobody(
    new_machine: NewMachine, holder: Machine, digest: str, dial: Dial
) -> None:
    machine = new_machine("w1")
    assert ask(machine, holder.serve(digest), digest, holder.blobs)[1]
    holder.blobs.remove(digest_of(LARGE))
    machine.install(digest, dial)
    assert is_right(machine, digest)


@contextlib.contextmanager
def a_false_peer(machine: Machine, answer: Callable[[socket.socket], None]) -> Iterator[Member]:
    """Listens as that machine, and gives every connection to `answer`."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), welcome(sock, machine.credentials) as tls:
            answer(tls)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listening.accept()
                threads.append(threading.Thread(target=serve, args=(sock,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield Member(f"127.0.0.1:{listening.getsockname()[1]}", "any")
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        acceptor.join()
        for thread in threads:
            thread.join()


EVERYTHING = encode_frame(Have(units=as_bytes((1 << 400) - 1)))


def says_nothing(sock: socket.socket) -> None:
    while sock.recv(65_536):
        pass


def has_all_and_sends_none(sock: socket.socket) -> None:
    sock.sendall(EVERYTHING)
    says_nothing(sock)


def says_garbage(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    says_nothing(sock)


def hangs_up(sock: socket.socket) -> None:
    sock.recv(1)


def dies_in_the_middle(sock: socket.socket) -> None:
    for unit in range(20):
        sock.recv(65_536)
        sock.sendall(EVERYTHING + encode_frame(SendingUnit(unit=unit, wire_bytes=1_000)))


def sends_what_was_not_asked_for(sock: socket.socket) -> None:
    sock.sendall(EVERYTHING + encode_frame(SendingUnit(unit=399, wire_bytes=7)))
    says_nothing(sock)


def sends_too_much(sock: socket.socket) -> None:
    sock.sendall(EVERYTHING)
    for unit in range(20):
        sock.sendall(encode_frame(SendingUnit(unit=unit, wire_bytes=1 << 40)))
    says_nothing(sock)


def has_more_than_can_be(sock: socket.socket) -> None:
    sock.sendall(encode_frame(Have(units=b"\xff" * 500_000)))
    says_nothing(sock)


@pytest.mark.parametrize(
    "answer",
    [
        says_nothing,
        has_all_and_sends_none,
        says_garbage,
        hangs_up,
        dies_in_the_middle,
        sends_what_was_not_asked_for,
        sends_too_much,
        has_more_than_can_be,
    ],
)
def test_a_false_peer_costs_little(
    new_machine: NewMachine,
    digest: str,
    dial: Dial,
    told: list[Member],
    answer: Callable[[socket.socket], None],
) -> None:
    with a_false_peer(new_machine("false"), answer) as member:
        told.append(member)
        machine = new_machine("w1")
        report = machine.install(digest, dial)
        assert is_right(machine, digest)
        assert report.bytes_sent <= TRAVELS + PIECE_BYTES


def test_a_packed_unit_cannot_become_more_than_a_unit(
    new_machine: NewMachine, digest: str, dial: Dial, told: list[Member]
) -> None:
    import zstandard  # noqa: PLC0415 - for this test only

    bomb = zstandard.ZstdCompressor().compress(bytes(100 * PIECE_BYTES))
    tried: list[int] = []

    def send_bombs(sock: socket.socket) -> None:
        sock.sendall(EVERYTHING)
        sock.recv(65_536)
        for unit in range(20):
            sending = SendingUnit(unit=unit, wire_bytes=len(bomb), encoding=Encoding.ZSTD)
            sock.sendall(encode_frame(sending) + bomb)
            tried.append(unit)
        says_nothing(sock)

    with a_false_peer(new_machine("false"), send_bombs) as member:
        told.append(member)
        machine = new_machine("w1")
        machine.install(digest, dial)
        assert is_right(machine, digest)


def test_a_worker_gives_only_to_who_says_the_key_of_the_artifact(
    holder: Machine, new_machine: NewMachine, digest: str, store: BlobStore
) -> None:
    member, asker = holder.serve(digest), new_machine("asker")
    have, unit = ask(asker, member, digest, store)
    assert have
    assert unit
    for key in ("", "0" * 64, asker.peers.key(digest), holder.peers.key("1" * 64), "\u20ac"):
        with pytest.raises(Denied, match="key"):
            ask(asker, Member(member.address, key), digest, store)
    with SwarmClient(asker.dial(member), digest, (), member.key) as client:
        with pytest.raises(Denied, match="ask that"):
            client.seek(1, "x")
        with pytest.raises(Denied, match="ask that"):
            client.take_any(1, lambda _: None, lambda _: None)


def test_a_worker_speaks_only_with_workers_of_its_cluster(
    holder: Machine, new_machine: NewMachine, digest: str, store: BlobStore, tmp_path: Path
) -> None:
    member, ca = holder.serve(digest), TestCa(tmp_path / "ca")
    elsewhere = TestCa(tmp_path / "other-ca")
    namesake = TestCa(tmp_path / "ca", "c2")  # the same CA, and another name of the cluster
    day_s = 86_400.0
    address = parse_address(member.address)
    strangers = {
        "no certificate": ca.stranger_context(),
        "another CA": elsewhere.credentials(tmp_path / "e1", "asker").client_context(),
        "another cluster": namesake.credentials(tmp_path / "e2", "asker").client_context(),
        "expired": ca.credentials(tmp_path / "e3", "asker", 2 * day_s).client_context(),
    }
    for why, context in strangers.items():
        context.verify_mode = ssl.CERT_NONE  # whatever it thinks of the worker
        with (
            socket.create_connection(address, 20) as sock,
            context.wrap_socket(sock, server_hostname=Purpose.SWARM) as tls,
            pytest.raises((ConnectionError, ssl.SSLError)),
            SwarmClient(tls, digest, share_of(digest, store).units, member.key) as client,
        ):
            client.look(0, 0.0, 0, "")
            pytest.fail(why)
    with socket.create_connection(address, 20) as plain:
        plain.sendall(SWARM_PREFACE + encode_frame(Look(artifact=digest, key=member.key)))
        with contextlib.suppress(ConnectionResetError):
            assert b"have" not in plain.recv(1_000), "an alert, if anything"
    assert ask(new_machine("asker"), member, digest, store)[1]


def test_a_worker_asks_no_stranger(
    holder: Machine, new_machine: NewMachine, digest: str, store: BlobStore, tmp_path: Path
) -> None:
    """Its own key would be told."""
    told: list[bytes] = []
    false = new_machine("false")
    false.credentials = TestCa(tmp_path / "other-ca").credentials(tmp_path / "e", "false")
    with (
        a_false_peer(false, lambda sock: told.append(sock.recv(1_000))) as member,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        ask(new_machine("asker"), member, digest, store)
    assert told == []


def test_what_is_not_here_is_not_given(
    new_machine: NewMachine, digest: str, store: BlobStore
) -> None:
    empty = new_machine("empty")
    with pytest.raises(NotFound):
        ask(new_machine("asker"), empty.serve(digest), digest, store)


def test_a_set_of_too_many_units_ends_the_connection(
    holder: Machine, new_machine: NewMachine, digest: str, store: BlobStore
) -> None:
    member = holder.serve(digest)
    with (
        SwarmClient(new_machine("asker").dial(member), digest, (), member.key) as client,
        pytest.raises(ProtocolError, match="at most"),
    ):
        client.look(1 << 900_000, 0.0, 0, "")


def test_a_broken_install_goes_on_with_what_it_has(
    new_machine: NewMachine, digest: str, dial: Dial
) -> None:
    first = new_machine("w1")
    wire = Wire(dial)
    first.start(digest, wire.dial)
    until(lambda: first.progress and first.progress[-1].bytes_done > 0)
    first.peers.close()
    first.close()
    wire.join()
    if first.report is None:
        assert isinstance(first.error, Unavailable)
    again = Machine(first.root)
    try:
        report = again.install(digest, dial)
        assert is_right(again, digest)
        assert report.bytes_sent < TRAVELS
    finally:
        again.close()


@pytest.mark.parametrize("workers", [ALIKE_WORKERS_MIN - 1, ALIKE_WORKERS_MIN])
def test_few_fetch_the_difference_from_the_master_many_all_of_it_from_each_other(
    new_machine: NewMachine, store: BlobStore, dial: Dial, told: list[Member], workers: int
) -> None:
    changed = bytes(LARGE[:3_000_000] + b"changed" + LARGE[3_000_007:])
    old, new = ({"prog": b"#!/bin/sh\n", "data": data} for data in (LARGE, changed))
    old_digest, new_digest = (put_artifact(store, files, a_manifest(files)) for files in (old, new))
    holder, machine = new_machine("holder"), new_machine("w1")
    holder.install(new_digest, dial)
    told.append(holder.serve(new_digest))
    machine.install(old_digest, dial)
    report = machine.install(new_digest, dial, Transfer(workers=workers))
    assert machine.file(new_digest, "data") == changed
    is_swarm = workers >= ALIKE_WORKERS_MIN
    assert (report.bytes_from_peers > 0) is is_swarm
    assert (report.bytes_sent < len(changed) / 10) is not is_swarm


def test_handshakes_that_do_not_end_shut_no_peer_out(
    holder: Machine, new_machine: NewMachine, digest: str, told: list[Member], store: BlobStore
) -> None:
    """Nor do they keep a worker from ending: a byte comes before each deadline."""
    peer, over = new_machine("peer"), threading.Event()
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(parse_address(told[0].address)))
            for _ in range(2 * THREADS_MAX)
        ]

        def drip() -> None:
            said = bytes.fromhex("1603010200") + bytes(400)
            for at in range(len(said)):
                for sock in crowd:
                    with contextlib.suppress(OSError):  # cut
                        sock.send(said[at : at + 1])
                if over.wait(1.0):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        stack.callback(dripping.join)
        stack.callback(over.set)
        have, _ = ask(peer, told[0], digest, store)
        assert have
        holder.close()

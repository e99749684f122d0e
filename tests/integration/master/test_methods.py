"""Every message of every connection, sent by everybody who may not send it, to a real master.

Generated from the table of methods (core/methods.py): a new message is tested as soon as it is
there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from corps.core import methods
from corps.core.methods import Need
from corps.master.library import BULK_THREADS_MAX, SHARE_MAX
from corps.model.name import Digest
from corps.trust.contexts import Purpose
from corps.wire import bulk, swarm, worker
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, SWARM_PREFACE, encode_frame
from tests.attack.shapes import sample
from tests.support.build import a_hello
from tests.support.callers import call, parse, types
from tests.support.cluster import Cluster
from tests.support.tls import TestCa, credentials_of, enroll
from tests.support.waiting import until

DAY_S = 86_400.0
STRANGERS = ("nobody", "another CA", "expired", "revoked", "unknown", "a former key")


class Case(NamedTuple):
    """A master, a worker `good` that has `assigned`, another one `w1` that has `other`; and the
    ways in of all others."""

    cluster: Cluster
    contexts: dict[str, Callable[[], ssl.SSLContext]]
    assigned: Digest
    other: Digest


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    directory = tmp_path_factory.mktemp("methods")
    made = Cluster(directory)
    ca = made.enroll("good", "w1", "former")
    former = credentials_of(made.settings, "former").client_context()
    made.enroll("former")  # it joined anew since
    enroll(made.settings, "expired", age_s=2 * DAY_S)
    enroll(made.settings, "revoked", revoked_by="ann")
    other_ca = TestCa(directory / "other-ca", ca.cluster)
    elsewhere = other_ca.credentials(directory / "elsewhere", "good").client_context()
    elsewhere.verify_mode = ssl.CERT_NONE  # whatever it thinks of the master
    unknown = ca.credentials(directory / "unknown", "unknown")
    try:
        made.start_master()
        for name in ("good", "w1"):
            made.start_worker(name)
        made.wait_state(good="ready", w1="ready")
        yield Case(
            made,
            {
                "nobody": ca.stranger_context,
                "another CA": lambda: elsewhere,
                "expired": credentials_of(made.settings, "expired").client_context,
                "revoked": credentials_of(made.settings, "revoked").client_context,
                "unknown": unknown.client_context,
                "a former key": lambda: former,
                "good": credentials_of(made.settings, "good").client_context,
                "w1": credentials_of(made.settings, "w1").client_context,
            },
            an_artifact(made, directory, "own", "good"),
            an_artifact(made, directory, "foreign", "w1"),
        )
    finally:
        made.end()


def an_artifact(made: Cluster, directory: Path, name: str, to: str) -> Digest:
    """A program that only `to` has."""
    (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
    (directory / name).chmod(0o755)
    made.copy(directory / name, "--to", to)
    (found,) = [one for one in made.client.artifacts() if one.name == name]
    until(lambda: to in {w for one in made.client.artifacts() for w in one.workers})
    return found.digest


def files_of(case: Case, artifact: Digest) -> list[Digest]:
    (found,) = [one for one in case.cluster.client.artifacts() if one.digest == artifact]
    return [file.digest for file in found.files]


def said_of(kind: type[Any], artifact: Digest) -> Any:
    """A message of that kind, the simplest that it may be; about `artifact` if about one."""
    plain = sample(Random(1), kind, share=0.0)
    for field in ("artifact", "digest"):
        if field in kind.__struct_fields__:
            plain[field] = artifact
    if "digests" in plain:
        plain["digests"] = [artifact]
    if kind is bulk.Sending:
        plain |= {"size_bytes": 0}
    if kind is swarm.Seek:
        plain["port"] = 1
    if kind is swarm.TakeAny:
        plain["wanted"] = b"\x01"
    if kind is worker.Hello:
        return a_hello("good")
    return msgspec.convert(plain, kind)


def everything(messages: list[dict[str, Any]]) -> str:
    return " ".join(message.get("message", "") for message in messages)


def is_turned_away(messages: list[dict[str, Any]]) -> bool:
    """Told so, if anything; nothing else."""
    return all(
        message["type"] in ("refused", "expired")
        or (message["type"] == "trouble" and message["code"] == "denied")
        for message in messages
    )


READS = [(BULK_PREFACE, Purpose.BULK, kind) for kind in methods.BULK] + [
    (SWARM_PREFACE, Purpose.SWARM, kind) for kind in methods.SWARM_OF_MASTER
]


@pytest.mark.parametrize("kind", methods.CONTROL, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_says_nothing_on_a_control_connection(
    case: Case, who: str, kind: type[Any]
) -> None:
    before = case.cluster.client.workers()
    frame = encode_frame(said_of(kind, case.assigned))
    try:
        said = CONTROL_PREFACE + frame
        messages = call(case.cluster.address, Purpose.CONTROL, case.contexts[who](), said)
    except OSError:
        messages = []
    assert is_turned_away(messages)
    if who in ("nobody", "expired", "revoked", "unknown", "a former key"):
        assert len(messages) == 1, "one word, that tells why"
    assert [(w.name, w.state) for w in case.cluster.client.workers()] == [
        (w.name, w.state) for w in before
    ]


@pytest.mark.parametrize(
    ("preface", "purpose", "kind"), READS, ids=[kind.__name__ for _, _, kind in READS]
)
@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_reads_nothing(
    case: Case, who: str, preface: bytes, purpose: Purpose, kind: type[Any]
) -> None:
    said = preface + encode_frame(said_of(kind, case.assigned))
    try:
        messages = call(case.cluster.address, purpose, case.contexts[who](), said)
    except OSError:
        messages = []
    assert is_turned_away(messages)


@pytest.mark.parametrize(
    ("preface", "purpose", "kind"), READS, ids=[kind.__name__ for _, _, kind in READS]
)
def test_a_worker_reads_what_it_should_have_and_nothing_else(
    case: Case, preface: bytes, purpose: Purpose, kind: type[Any]
) -> None:
    """B150. That it is answered shows that strangers are not refused for the question."""
    needs = {**methods.BULK, **methods.SWARM_OF_MASTER}[kind]
    answers = []
    for artifact in (case.assigned, case.other, "9" * 64, "../../etc/passwd"):
        said = preface + encode_frame(said_of(kind, artifact))
        answers.append(call(case.cluster.address, purpose, case.contexts["good"](), said))
    own, *others = answers
    for answer in others:
        assert types(answer) == ["trouble"]
        assert answer[0]["code"] == "denied"
    if needs is Need.ASSIGNED:
        assert types(own) != []
        assert "trouble" not in types(own), own
    else:
        assert types(own) == ["trouble"]
        assert own[0]["code"] == "denied"


def test_a_blob_is_given_as_part_of_an_artifact_only(case: Case) -> None:
    def ask(digest: Digest, artifact: Digest | None) -> list[dict[str, Any]]:
        want = BULK_PREFACE + encode_frame(bulk.Want(digest=digest, artifact=artifact))
        return call(case.cluster.address, Purpose.BULK, case.contexts["good"](), want)

    (own, *_), (foreign, *_) = files_of(case, case.assigned), files_of(case, case.other)
    assert types(ask(own, case.assigned)) == ["sending"]
    for digest, artifact in (
        (own, None),
        (foreign, None),
        (foreign, case.assigned),
        (foreign, case.other),
        (case.other, case.assigned),
        (own, case.other),
    ):
        (trouble,) = ask(digest, artifact)
        assert trouble["code"] == "denied", trouble


def test_one_worker_leaves_room_for_the_others(case: Case) -> None:
    """Whoever has its key opens as many connections as it can, and says nothing more on them."""
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(int(BULK_THREADS_MAX * SHARE_MAX)):
            sock = stack.enter_context(socket.create_connection(parse(case.cluster.address), 20))
            context = case.contexts["good"]()
            held.append(
                stack.enter_context(context.wrap_socket(sock, server_hostname=Purpose.BULK.value))
            )
            held[-1].sendall(BULK_PREFACE)
        want = bulk.Want(digest=case.assigned, artifact=case.assigned)
        said = BULK_PREFACE + encode_frame(want)
        until(lambda: "wait for one" in everything(_ask(case, "good", said)), 20.0)
        other = bulk.Want(digest=case.other, artifact=case.other)
        answers = _ask(case, "w1", BULK_PREFACE + encode_frame(other))
        assert "sending" in "".join(types(answers))
    until(lambda: "sending" in "".join(types(_ask(case, "good", said))), 20.0)


def _ask(case: Case, who: str, said: bytes) -> list[dict[str, Any]]:
    return call(case.cluster.address, Purpose.BULK, case.contexts[who](), said)


@pytest.mark.parametrize("name", ["w1", "w9", "revoked"])
def test_a_worker_is_nobody_else(case: Case, name: str) -> None:
    """B040: whatever it says, it is whom its certificate names."""
    said = CONTROL_PREFACE + encode_frame(a_hello(name))
    messages = call(case.cluster.address, Purpose.CONTROL, case.contexts["good"](), said)
    assert types(messages) == ["refused"]
    assert f"not of {name!r}" in everything(messages)


DIALS = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
sock = socket.socket()
sock.settimeout(20)
sock.connect(("127.0.0.1", int(sys.argv[2])))
sock.sendall(bytes.fromhex(sys.argv[3]))
data = b""
try:
    while piece := sock.recv(65536):
        data += piece
except ConnectionResetError:
    pass
sys.stdout.buffer.write(data)
"""


@pytest.mark.parametrize(
    ("preface", "message"),
    [
        (CONTROL_PREFACE, a_hello("w9")),
        (BULK_PREFACE, bulk.Missing(digests=())),
        (SWARM_PREFACE, swarm.Seek(artifact="1" * 64, port=1, key="x")),
    ],
    ids=["control", "bulk", "swarm"],
)
def test_another_user_of_this_machine_is_no_worker(
    case: Case, preface: bytes, message: worker.Message
) -> None:
    """An app under another user cannot pose as one: the kernel says whose process it is."""
    said = (preface + encode_frame(message)).hex()
    port = case.cluster.address.rpartition(":")[2]
    words = [sys.executable, "-c", DIALS, "65534", port, said]
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"uid {os.geteuid()}".encode() in done.stdout
    assert b"uid 65534" in done.stdout
    assert "w9" not in [one.name for one in case.cluster.client.workers()]

"""The audit trail of a real join port: who became a member, who did not, and exactly why."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from corps.core.proof import Proof
from corps.errors import Denied, Unavailable
from corps.master.join import FAILURES_MAX
from corps.model.token import base32
from corps.model.trail import Deed, parse_line
from corps.model.trust import RevokeToken
from corps.net import join_client
from corps.store import trail as stored
from tests.support.joining import JoinPort, a_key, join_port
from tests.support.waiting import until


@pytest.fixture
def port(tmp_path: Path) -> Iterator[JoinPort]:
    with join_port(tmp_path / "master") as made:
        yield made


def deeds(tmp_path: Path, act: str) -> list[Deed]:
    """As they lie in its file, which holds."""
    proof, found = Proof(), []
    with stored.opened(tmp_path / "master" / "state.db") as (lines, head):
        for line in lines:
            proof.take(line)
            entry = parse_line(line)
            assert entry is not None
            found += [entry.deed] if entry.deed.act == act else []
    assert proof.finish(head).fault is None
    return found


def test_who_joined_by_which_token_is_told(port: JoinPort, tmp_path: Path) -> None:
    token = port.make_token()
    join_client.join(port.address, token, "w1", "host", a_key())
    (deed,) = deeds(tmp_path, "join")
    assert (deed.who, deed.subject, deed.outcome) == (f"token {token.id}", "w1", "done")
    assert deed.source == "127.0.0.1"
    serial = port.roll.members["w1"].serial
    assert deed.detail == f"certificate {serial}"


def test_a_stranger_hears_one_text_and_the_trail_has_the_reason(
    port: JoinPort, tmp_path: Path
) -> None:
    """B050."""
    token, used, revoked = port.make_token(), port.make_token(), port.make_token()
    join_client.join(port.address, used, "w1", "host", a_key())
    port.order(RevokeToken(id=revoked.id))
    wrong = msgspec.structs.replace(token, secret=bytes(16))
    named = port.make_token(worker="w7")
    for bad, name in ((wrong, "w2"), (used, "w3"), (revoked, "w4"), (named, "w5")):
        with pytest.raises(Denied, match="E_TOKEN"):
            join_client.join(port.address, bad, name, "host", a_key())
    denied = [deed for deed in deeds(tmp_path, "join") if deed.outcome == "denied"]
    assert [deed.who for deed in denied] == [
        f"token {one.id}" for one in (token, used, revoked, named)
    ]
    for deed, reason in zip(
        denied, ("wrong secret", "used up", "no token", "is for w7"), strict=True
    ):
        assert reason in deed.detail
    everything = "".join(map(repr, deeds(tmp_path, "join")))
    for one in (token, used, revoked, named, wrong):
        assert base32(one.secret) not in everything
        assert one.secret.hex() not in everything


def test_a_key_that_is_none_of_ours_is_told(port: JoinPort, tmp_path: Path) -> None:
    with pytest.raises(Denied, match="E_CSR"):
        join_client.join(
            port.address, port.make_token(), "w1", "host", ec.generate_private_key(ec.SECP521R1())
        )
    until(lambda: [deed.outcome for deed in deeds(tmp_path, "join")] == ["denied"])


def test_guessing_without_end_is_told_and_fills_nothing(port: JoinPort, tmp_path: Path) -> None:
    token = port.make_token()
    wrong = msgspec.structs.replace(token, secret=bytes(16))

    def guess(number: int) -> None:
        with pytest.raises(Denied, match="E_TOKEN"):
            join_client.join(port.address, wrong, f"w{number}", "host", a_key())

    with ThreadPoolExecutor(FAILURES_MAX) as guessers:
        list(guessers.map(guess, range(FAILURES_MAX)))
    with pytest.raises(Unavailable, match="try again in a minute"):
        join_client.join(port.address, wrong, "w1", "host", a_key())
    assert len(deeds(tmp_path, "join")) == FAILURES_MAX

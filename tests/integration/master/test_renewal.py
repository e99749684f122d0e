"""A worker's certificate over time: renewed by itself, also late, until the master says no."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.clock import Clock
from corps.errors import Denied, Unavailable
from corps.model.trust import RevokeWorker
from corps.net.join_client import join, renew
from corps.trust.credentials import Credentials
from corps.worker.renewal import EARLIEST, LATEST, Renewal
from tests.support.joining import JoinPort, a_key, join_port

DAY_S = 86_400.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[JoinPort]:
    with join_port(tmp_path / "master") as made:
        yield made


@pytest.fixture
def credentials(port: JoinPort, tmp_path: Path) -> Credentials:
    key, token = a_key(), port.make_token()
    given = join(port.address, token, "w1", "", key)
    made = Credentials(tmp_path / "w1" / "trust")
    made.save(key, given.certificate, given.authorities, token.id)
    return made


def age(credentials: Credentials, tmp_path: Path, share: float) -> None:
    """As if so much of its life was over since it was given."""
    at = time.time() - share * (DAY_S + 300)
    os.utime(tmp_path / "w1" / "trust" / "cert.pem", (at, at))
    assert credentials.spent(Clock()()) == pytest.approx(share, abs=0.01)


def kept(credentials: Credentials, port: JoinPort, until_serial_is_not: str) -> None:
    """Keep them until there is another certificate."""

    async def run() -> None:
        keeping = asyncio.create_task(Renewal(credentials, port.address, random.Random(1)).keep())
        async with asyncio.timeout(20):
            while credentials.identity().serial == until_serial_is_not and not keeping.done():
                await asyncio.wait({keeping}, timeout=0.05)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if not keeping.cancelled():
            keeping.result()

    asyncio.run(run())


def test_it_is_renewed_between_half_and_four_fifths_of_its_life(
    port: JoinPort, credentials: Credentials, tmp_path: Path
) -> None:
    first = credentials.identity()
    assert credentials.spent(Clock()()) < EARLIEST
    age(credentials, tmp_path, LATEST)
    kept(credentials, port, first.serial)
    second = credentials.identity()
    assert port.roll.members["w1"].serial == second.serial != first.serial
    assert second.key == first.key
    assert credentials.spent(Clock()()) < EARLIEST


def test_a_young_one_is_left_alone(
    port: JoinPort, credentials: Credentials, tmp_path: Path
) -> None:
    first = credentials.identity()
    age(credentials, tmp_path, EARLIEST - 0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(Renewal(credentials, port.address, random.Random()).keep(), 2))
    assert credentials.identity() == first


def test_one_that_expired_is_renewed_before_anything_is_dialled(
    port: JoinPort, credentials: Credentials, tmp_path: Path
) -> None:
    first = credentials.identity()
    renewal = Renewal(credentials, port.address, random.Random())
    asyncio.run(renewal.before_dialling())
    assert credentials.identity() == first
    age(credentials, tmp_path, 1.0)
    asyncio.run(renewal.before_dialling())
    assert credentials.identity().serial != first.serial


def test_the_masters_word_counts_more_than_the_date_of_a_file(
    port: JoinPort, credentials: Credentials
) -> None:
    first = credentials.identity()
    renewal = Renewal(credentials, port.address, random.Random())
    renewal.told_expired()
    asyncio.run(renewal.before_dialling())
    assert credentials.identity().serial != first.serial


def test_a_revoked_worker_gives_up(
    port: JoinPort, credentials: Credentials, tmp_path: Path
) -> None:
    port.order(RevokeWorker(worker="w1"))
    age(credentials, tmp_path, 1.0)
    with pytest.raises(Denied, match="revoked by ann"):
        kept(credentials, port, credentials.identity().serial)


def test_somebody_elses_master_is_no_reason_to_give_up(
    port: JoinPort, credentials: Credentials, tmp_path: Path
) -> None:
    with join_port(tmp_path / "other") as other:
        with pytest.raises(Unavailable, match="E_CA_PIN"):
            renew(other.address, credentials)
        with pytest.raises(ConnectionRefusedError):
            renew(("127.0.0.1", 1), credentials)

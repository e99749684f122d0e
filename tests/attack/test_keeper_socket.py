"""The keeper's socket, fed with anything: it hangs up or answers, and what runs goes on."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.wire import keeper as kw
from tests.attack.shapes import FUZZ, mutate, sample, warp
from tests.integration.keeper.driver import Keeper, Link, frame
from tests.support import groups

# It may be told any path, as root: all but its own directory is read-only to it.
CAGED = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'
RUNS = "kept.1#1"  # no sample says this key, and none of their paths can be executed


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    directory = tmp_path_factory.mktemp("fuzzed")
    state = directory / "state"
    state.mkdir()
    made = Keeper(state, prefix=("unshare", "-m", "sh", "-c", CAGED, str(state)))
    try:
        made.link.spawn(_spawn(RUNS, state, "/bin/sleep"))
        yield made
    finally:
        made.end()
        groups.end(state, is_expected=False)
        shutil.rmtree(directory)


@FUZZ
@given(seed=st.integers(0, 1 << 32))
def test_the_keeper_survives_whatever_its_socket_hears(keeper: Keeper, seed: int) -> None:
    rng = Random(seed)
    bodies = [_said(rng, keeper.directory) for _ in range(rng.randint(1, 4))]
    data = b"".join(frame(msgspec.json.encode(body)) for body in bodies)
    link = Link(keeper.directory)
    try:
        link.send_raw(mutate(rng, data) if rng.random() < 0.3 else data)
        link.socket.shutdown(socket.SHUT_WR)
        while link.socket.recv(1 << 16):
            pass  # when it closes it has heard all of it
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up in the middle
    finally:
        link.close()
    assert keeper.process.poll() is None, keeper.errors.read_text()
    link = keeper.connect()
    known = link.listing()
    assert known[RUNS].is_live
    over = [key for key, kept in known.items() if not kept.is_live]
    link.send(kw.Forget(keys=tuple(over)))


def _said(rng: Random, directory: Path) -> Any:
    value = sample(rng, kw.ToKeeper, share=0.99)
    if value["type"] == "spawn" or rng.random() < 0.5:
        wild = sample(rng, kw.Spawn, share=1.0)
        odd = rng.sample(sorted(wild), rng.randint(0, 3))
        value = msgspec.to_builtins(_spawn(f"fuzz.{rng.randint(1, 1 << 40)}#1", directory))
        value |= {name: wild[name] for name in odd}
    return value if rng.random() < 0.6 else warp(rng, value)


def _spawn(key: str, directory: Path, path: str = "/nonexistent") -> kw.Spawn:
    log = str(directory / "fuzz.log")
    return kw.Spawn(
        key=key, path=path, argv=(path, "1000"), env={}, cwd="/", stdout=log, stderr=log
    )

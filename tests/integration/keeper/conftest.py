"""Keepers for one test each. Nothing may survive: no process, no descriptor."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from corps.wire.keeper import Spawn
from tests.integration.keeper.driver import Keeper
from tests.support import groups, programs
from tests.support.frozen import Frozen, freezer
from tests.support.waiting import until

MARK = "CORPS_TEST"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The path of a program of tests/support/programs."""
    directory = tmp_path_factory.mktemp("programs")
    return lambda name: str(programs.build(name, directory))


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Spawn]:
    """`order(KEY, PATH, *ARGS, **FIELDS)`: a Spawn with everything else filled in."""

    def make(key: str, path: str, /, *args: str, **fields: object) -> Spawn:
        env = {"PATH": "/bin:/usr/bin", "CORPS_ATTEMPT": key, MARK: str(tmp_path)}
        log = str(tmp_path / key.partition("#")[0])
        usual = Spawn(
            key=key,
            path=path,
            argv=(path, *args),
            env=env,
            cwd=str(tmp_path),
            stdout=f"{log}.out",
            stderr=f"{log}.err",
        )
        return msgspec.structs.replace(usual, **fields)

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Keeper]]:
    """Start a keeper: the same directory for all of one test, unless `at` says another."""
    keepers: list[Keeper] = []
    fds = set(os.listdir("/proc/self/fd"))

    def make(
        *options: str, at: str = "state", limits: str = "", prefix: Sequence[str] = ()
    ) -> Keeper:
        directory = tmp_path / at
        directory.mkdir(parents=True, exist_ok=True)
        keepers.append(Keeper(directory, *options, limits=limits, prefix=prefix))
        return keepers[-1]

    yield make
    for keeper in keepers:
        if keeper.process.poll() is None:
            keeper.end()
        keeper.link.close()
    left = _of_this_test(tmp_path)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"processes survive the test: {left}"
    for keeper in keepers:
        groups.end(keeper.directory, is_expected=keeper.process.returncode != 0)
    until(lambda: len(os.listdir("/proc/self/fd")) <= len(fds))


@pytest.fixture
def hung(tmp_path: Path, built: Callable[[str], str]) -> Iterator[str]:
    """A program whose execve(2) hangs in its open: somebody holds a write lease, fcntl(2)."""
    path = tmp_path / "hung"
    path.write_bytes(Path(built("wait")).read_bytes())
    path.chmod(0o755)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    lease = os.open(path, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    yield str(path)
    os.close(lease)
    signal.signal(signal.SIGIO, handler)


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    with freezer() as freeze:
        yield freeze


@pytest.fixture
def keeper(start: Callable[..., Keeper]) -> Keeper:
    return start()


def _of_this_test(tmp_path: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={tmp_path}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found

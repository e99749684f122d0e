"""The watch with real files: many readers, late readers, logs that are no logs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from corps.clock import Clock
from corps.wire.keeper import Ended, KeptAttempt, Refused, Spawned
from corps.wire.worker import LogRead, OutputRead, ReadLog, ReadOutput
from corps.worker.layout import Layout
from corps.worker.watch import FOLLOWERS_OF_ONE_MAX, OPEN_MAX, Watch

KEY = "web.1#1"


class Machine:
    """A worker's directory and its watch; `running` are the attempts that may write."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory)
        self.running: set[str] = set()
        self.watch = Watch(self.layout, Clock(), self.running.__contains__, 0)

    def start(self, key: str = KEY) -> None:
        self.layout.make(key)
        self.running.add(key)
        for name in ("stdout", "stderr"):
            Path(self.layout.log(key, name)).touch()
        self.watch.keeper_said(Spawned(key=key, pid=1, forked_at=1.0, executed_at=1.0))

    def end(self, key: str = KEY) -> None:
        self.running.discard(key)
        kept = KeptAttempt(
            key=key, pid=1, note="", forked_at=1.0, is_live=False, executed=True, status=0
        )
        self.watch.keeper_said(Ended(attempt=kept))

    def write(self, data: bytes, key: str = KEY, name: str = "stdout") -> None:
        with Path(self.layout.log(key, name)).open("ab") as file:
            file.write(data)

    async def log(self, key: str = KEY, wait_s: float = 0.0, offset: int = 0) -> LogRead:
        question = ReadLog(ask=1, key=key, stream="stdout", offset=offset, wait_s=wait_s)
        answer = await self.watch.read(question)
        assert isinstance(answer, LogRead)
        return answer

    async def output(self, key: str = KEY, wait_s: float = 0.0) -> OutputRead:
        answer = await self.watch.read(ReadOutput(ask=1, key=key, wait_s=wait_s))
        assert isinstance(answer, OutputRead)
        return answer


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Machine], Awaitable[None]]], None]:
    def run(body: Callable[[Machine], Awaitable[None]]) -> None:
        async def main() -> None:
            machine = Machine(tmp_path)
            try:
                await body(machine)
            finally:
                machine.watch.close()

        asyncio.run(main())

    return run


Run = Callable[[Callable[[Machine], Awaitable[None]]], None]


def test_whoever_waits_gets_what_comes_and_then_the_end(run: Run) -> None:
    async def body(machine: Machine) -> None:
        machine.start()
        waiting = asyncio.create_task(machine.output(wait_s=20))
        await asyncio.sleep(0)
        machine.write(b"half")
        await machine.log(wait_s=20)  # until that is seen
        assert not waiting.done()  # a line without end is nothing yet
        machine.write(b" a line\n")
        answer = await waiting
        assert [piece.data for piece in answer.pieces] == [b"half a line\n"]
        assert not answer.is_final
        waiting_log = asyncio.create_task(machine.log(wait_s=20, offset=12))
        machine.end()
        assert (await waiting_log).is_final
        assert (await machine.output()).is_final

    run(body)


def test_one_log_has_so_many_readers_and_no_more(run: Run) -> None:
    async def body(machine: Machine) -> None:
        machine.start()
        machine.start("web.2#1")
        readers = [asyncio.create_task(machine.log(wait_s=20)) for _ in range(FOLLOWERS_OF_ONE_MAX)]
        await asyncio.sleep(0)
        refused = await machine.log(wait_s=20)
        assert refused.error is not None and "64 others read the log" in refused.error
        assert refused.code == "unavailable"
        assert (await machine.log("web.2#1")).error is None
        machine.write(b"for all\n")
        answers = await asyncio.gather(*readers)
        assert {answer.data for answer in answers} == {b"for all\n"}
        assert (await machine.log()).data == b"for all\n"

    run(body)


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_what_was_put_in_the_place_of_a_log_is_not_read(run: Run, kind: str) -> None:
    async def body(machine: Machine) -> None:
        machine.layout.make(KEY)
        path = machine.layout.log(KEY, "stdout")
        os.symlink("/etc/passwd", path) if kind == "symlink" else os.mkfifo(path)
        for answer in (await machine.log(), await machine.output()):
            assert answer.error is not None and answer.error.startswith("cannot read the log")

    run(body)


def test_what_is_no_attempt_or_has_no_log_is_said_so(run: Run) -> None:
    async def body(machine: Machine) -> None:
        for key in ("../../etc#1", "web", "web.1#0", "web.1#1/../.."):
            answer = await machine.log(key)
            assert answer.error is not None and answer.error.startswith("bad attempt")
        answer = await machine.log("web.9#1")
        assert answer.error == "there is no log of 'web.9#1' on this worker"
        machine.running.add("web.9#1")  # about to start: not yet
        assert (await machine.log("web.9#1")).error is None

    run(body)


def test_descriptors_do_not_grow_with_the_dead(run: Run) -> None:
    async def body(machine: Machine) -> None:
        for number in range(1, 2 * OPEN_MAX):
            key = f"web.{number}#1"
            machine.start(key)
            machine.write(b"x\n", key)
            await machine.watch.look()
            machine.end(key)
        for number in range(1, 2 * OPEN_MAX):
            assert (await machine.log(f"web.{number}#1")).data == b"x\n"
        assert len(os.listdir("/proc/self/fd")) < 4 * OPEN_MAX
        for number in range(1, 2 * OPEN_MAX):
            machine.watch.forget(f"web.{number}#1")
        assert len(os.listdir("/proc/self/fd")) < OPEN_MAX

    run(body)


def test_a_launch_that_was_refused_is_not_looked_at_for_ever(run: Run) -> None:
    async def body(machine: Machine) -> None:
        machine.layout.make(KEY)
        machine.watch.expect(KEY, 1 << 20)
        times = f"{machine.layout.stem(KEY)}.times"
        assert os.stat(times).st_size == 4_096
        machine.watch.keeper_said(Refused(key=KEY, reason="no"))
        machine.write(b"x")
        await machine.watch.look()
        assert os.stat(times).st_size == 4_096

    run(body)


def test_what_readers_see_first_is_told_all_the_same(run: Run) -> None:
    async def body(machine: Machine) -> None:
        machine.start()
        machine.write(b"long ago\n")
        assert await machine.watch.look() == []
        os.truncate(machine.layout.log(KEY, "stdout"), 0)
        await machine.log()
        (note,) = await machine.watch.look()
        assert (note.kind, note.subject) == ("log-truncated", "web.1")

    run(body)

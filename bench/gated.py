"""What the gate costs: the keeper alone, driven through its socket, against plain C.

Every launch is journaled before it may exec, and every exit status before it is told.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from bench import limits
from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper

LAUNCHES = 1_000
RUNS = 3


def keeper_s(count: int, program: str) -> float:
    """Seconds until the keeper has told every end of `count` launches; the median of RUNS."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        keeper = Keeper(directory)
        try:
            times = [_run(keeper, directory, run, count, program) for run in range(RUNS)]
            keeper.link.send(wire.Quit())
            keeper.link.closed()
            keeper.process.wait(10)
        finally:
            keeper.link.close()
            if keeper.process.poll() is None:
                keeper.process.terminate()
                keeper.process.wait()
    return median(times)


def _run(keeper: Keeper, directory: Path, run: int, count: int, program: str) -> float:
    log = str(directory / "log")
    orders = [
        wire.Spawn(
            key=f"bench.{number}#1",
            path=program,
            argv=(program,),
            env={},
            cwd="/",
            stdout=log,
            stderr=log,
        )
        for number in range(run * count + 1, (run + 1) * count + 1)
    ]
    begin = time.perf_counter()
    keeper.link.send(*orders)
    left = {order.key for order in orders}
    while left:
        keeper.link.read()
        left -= {said.attempt.key for said in keeper.link.said if isinstance(said, wire.Ended)}
        keeper.link.said.clear()
    taken = time.perf_counter() - begin
    keeper.link.send(wire.Forget(keys=tuple(order.key for order in orders)))
    return taken


def measure(count: int = LAUNCHES, program: str = "/bin/true") -> tuple[float, float, float]:
    """Seconds of the keeper, of C one at a time, and of C four at a time, which uses two cores."""
    one_s = limits.fork_exec_wait_s(count, program, wide=1)
    return keeper_s(count, program), one_s, limits.fork_exec_wait_s(count, program)


def told(gated_s: float, one_s: float, four_s: float) -> str:
    one, four = f"C one at a time {one_s:.2f} s", f"four at a time {four_s:.2f} s"
    return f"{one_s / gated_s:.0%} of {one}, {four_s / gated_s:.0%} of {four}"


if __name__ == "__main__":
    measured = measure()
    print(f"{LAUNCHES} gated launches in {measured[0]:.3f} s: {told(*measured)}")

"""kill -9 of the keeper at the system calls of a launch: no program runs twice, or is invented."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from corps.wire import keeper as wire
from tests.integration.keeper.driver import DEADLINE_S, Keeper, status_of
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

STOPS_MAX = 200  # a launch has some 40 calls


def test_a_keeper_killed_at_any_call_of_a_launch_launches_once(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    keeper = start()
    outcomes: dict[str, int] = {}
    for stop in range(1, STOPS_MAX):
        runs = tmp_path / f"runs{stop}"
        script = f"echo ran >>{runs}; exit 3"
        said = order(f"app.{stop}#1", "/bin/sh", "-c", script)
        if not _is_killed(keeper, said, built("killer"), stop):
            break
        keeper = start()
        outcome = _settle(keeper, said, order(f"app.{stop}#2", "/bin/sh", "-c", script))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert runs.read_text() == "ran\n", f"killed at stop {stop}: {outcome}"
    assert stop < STOPS_MAX - 1
    assert {"not known", "never executed", "known"} <= set(outcomes), outcomes


def _is_killed(keeper: Keeper, said: wire.Spawn, killer: str, stop: int) -> bool:
    """Order the launch and kill the keeper at its stop; False when it is done before."""
    argv = [killer, str(keeper.pid), str(stop)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "attached\n"
        with contextlib.suppress(BrokenPipeError):  # already
            keeper.link.send(said)
        while keeper.link.read():
            if any(_is_end_of(said.key, message) for message in keeper.link.said):
                process.terminate()  # so that it lets go; a tracer that is killed may not
                return False
        assert process.wait(DEADLINE_S) == 0
    keeper.process.wait(DEADLINE_S)
    keeper.link.close()
    return True


def _settle(keeper: Keeper, said: wire.Spawn, again: wire.Spawn) -> str:
    """Do what a worker does with the listing, until the program has run; name the case."""
    kept = keeper.link.listing().get(said.key)
    if kept is None:
        assert keeper.link.run(said).status == status_of(3)
        return "not known"
    if kept.is_live:
        until(lambda: not keeper.link.listing()[said.key].is_live)
        kept = keeper.link.listing()[said.key]
    if kept.failed_stage is not None:
        assert (kept.failed_stage, kept.executed) == ("never_executed", False)
        assert keeper.link.run(again).status == status_of(3)
        return "never executed"
    assert kept.executed
    assert kept.lost or kept.status == status_of(3)
    return "lost" if kept.lost else "known"


def _is_end_of(key: str, message: wire.FromKeeper) -> bool:
    return isinstance(message, wire.Ended) and message.attempt.key == key

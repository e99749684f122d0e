"""Whatever a decoder lets through, the cores take: nothing raises, no invariant breaks."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given

from corps.core import events as ev
from corps.core.records import Record
from corps.model.command import AnyCommand
from corps.wire import keeper as kw
from corps.wire.worker import FromWorker, ToWorker
from tests.attack.shapes import FUZZ, built
from tests.attack.test_decoders import RANDOM
from tests.support.build import AMaster, a_ready_worker

WORDS = 12


@FUZZ
@given(rng=RANDOM)
def test_a_hostile_worker_cannot_break_the_master(rng: Random) -> None:
    master = AMaster()
    sessions = [master.join("w1"), master.join("w2"), master.open()]
    master.launch_running(sessions[0])
    for number in range(WORDS):
        match rng.randrange(6):
            case 0:
                master.wait(0.2)
            case 1:
                command = built(rng, AnyCommand)
                master.order(command, id=f"order-{number:04d}")
            case _:
                said = [built(rng, FromWorker) for _ in range(rng.randint(1, 3))]
                master.hear(rng.choice(sessions), *said)
    for effect in master.said:
        if isinstance(effect, ev.Save):
            _check_readable(effect.record)
    assert all(len(event.message) < 4_000 for event in master.core.cluster.events)
    master.restart()


@FUZZ
@given(rng=RANDOM)
def test_a_hostile_master_or_keeper_cannot_break_the_worker(rng: Random) -> None:
    worker = a_ready_worker()
    worker.run("web.1#1")
    for _ in range(WORDS):
        match rng.randrange(5):
            case 0:
                worker.wait(0.2)
            case 1:
                worker.keeper_says(built(rng, kw.FromKeeper))
            case _:
                worker.obey(*[built(rng, ToWorker) for _ in range(rng.randint(1, 3))])


def _check_readable(record: Record) -> None:
    data = msgspec.json.encode(record)
    assert msgspec.json.decode(data, type=type(record)) == record, "it can be read back"

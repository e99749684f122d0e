"""Answers to what the master asks about usage: now, and over time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from corps.wire import worker
from corps.wire.probe import Probe, Probed
from corps.worker.fit import MachineCheck
from corps.worker.sampler import Sampler
from corps.worker.usage import Processes

SAMPLES_A_MESSAGE = 1_000
POINTS_A_MESSAGE = 2_000
TREES_AGE_MAX_S = 1.0

Tell: TypeAlias = Callable[[worker.FromWorker], None]


async def answer_sample(
    question: worker.Sample,
    tell: Tell,
    processes: Processes,
    sampler: Sampler,
    totals: Callable[[], worker.Totals],
) -> None:
    if question.with_trees:
        await sampler.refresh(TREES_AGE_MAX_S)
    live = [
        msgspec.structs.replace(one, measured=sampler.measured(one.key))
        for one in processes.sample(question.keys, with_peaks=question.with_peaks)
    ]
    for at in range(0, len(live) or 1, SAMPLES_A_MESSAGE):
        part = tuple(live[at : at + SAMPLES_A_MESSAGE])
        is_last = at + SAMPLES_A_MESSAGE >= len(live)
        tell(worker.Sampled(ask=question.ask, live=part, totals=totals(), is_last=is_last))


async def answer_probe(
    question: Probe, tell: Tell, machine: MachineCheck, refusal: str | None
) -> None:
    loop = asyncio.get_running_loop()
    problems = await loop.run_in_executor(machine.thread, machine.problems, question.check, refusal)
    tell(Probed(ask=question.ask, digest=question.check.digest, problems=problems))


async def answer_series(question: worker.ReadSeries, tell: Tell, sampler: Sampler) -> None:
    part: list[worker.RunSeries] = []
    for key in question.keys:
        points = await asyncio.to_thread(sampler.read, key, question.points_max)
        part.append(worker.RunSeries(key=key, points=points))
        if sum(len(run.points) for run in part) >= POINTS_A_MESSAGE:
            tell(worker.SeriesRead(ask=question.ask, series=tuple(part), is_last=False))
            part = []
    tell(worker.SeriesRead(ask=question.ask, series=tuple(part)))

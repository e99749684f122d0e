"""Asks workers whether they can run an artifact, before it is copied or launched (ADR 19).

Their answers reach the core as messages; it remembers them and decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from corps.core import believe
from corps.core.candidates import gone
from corps.core.fitness import PROBLEMS_MAX
from corps.core.targets import find_artifact
from corps.errors import CorpsError, Unavailable
from corps.master.driver import MasterDriver
from corps.model.artifact import Manifest
from corps.model.check import Check, CheckView, check_check, check_of
from corps.model.command import Copy, Launch, Submission
from corps.model.name import Digest, WorkerName
from corps.model.selector import parse_selector, select
from corps.model.worker import Worker, WorkerState
from corps.wire.probe import Probe, Probed

CHECK_DEADLINE_S = 10.0
LAUNCH_DEADLINE_S = 5.0  # a worker that does not say may be launched on: it looks again itself

Load: TypeAlias = Callable[[Digest], Manifest]


async def check(driver: MasterDriver, question: Check, on: str) -> list[CheckView]:
    """One row for each worker of `on`. Raise Unavailable when that is nobody."""
    check_check(question)
    chosen = sorted(_selected(driver, on), key=lambda worker: worker.name)
    if not chosen:
        raise Unavailable(f"no worker is meant by {on!r}: see 'corps workers'")
    answers = await _ask(driver, question, [worker.name for worker in chosen], CHECK_DEADLINE_S)
    return [_row(driver, question, worker.name, answers.get(worker.name)) for worker in chosen]


async def ask_before(driver: MasterDriver, submission: Submission, load: Load) -> None:
    """Have the workers that a Copy or Launch may choose say whether they can run it.

    Who said so since it joined is not asked again; who cannot is: its owner may have helped.
    """
    if submission.id in driver.core.cluster.commands:
        return  # carried out already
    try:
        match submission.command:
            case Copy() as command:
                names = _to_ask(driver, command.digest, _selected(driver, command.to))
                await _ask_all(driver, command.name, command.digest, names, load, {})
            case Launch() as command:
                await _ask_before_launch(driver, command, load)
            case _:
                return
    except CorpsError:
        return  # the core says what is wrong with the command, the worker what with the files


async def _ask_before_launch(driver: MasterDriver, command: Launch, load: Load) -> None:
    core = driver.core
    artifact = find_artifact(core.cluster, command.artifact)
    everyone = [
        worker
        for worker in _selected(driver, command.on if command.on is not None else "all")
        if worker.state is WorkerState.READY
    ]
    groups = [everyone]
    if command.on is None:  # the core looks at the others only if none of these can
        groups.insert(0, [worker for worker in everyone if worker.name in artifact.workers])
    for group in groups:
        names = _to_ask(driver, artifact.digest, group)
        await _ask_all(driver, artifact.name, artifact.digest, names, load, command.env)
        if any(core.fits(worker.name, artifact.digest) is not False for worker in group):
            return


async def _ask_all(
    driver: MasterDriver,
    name: str,
    digest: Digest,
    workers: list[WorkerName],
    load: Load,
    env: dict[str, str],
) -> None:
    if not workers:
        return
    manifest = await asyncio.to_thread(load, digest)
    question = check_check(check_of(name, digest, manifest, env))
    await _ask(driver, question, workers, LAUNCH_DEADLINE_S)


async def _ask(
    driver: MasterDriver, question: Check, workers: list[WorkerName], deadline_s: float
) -> dict[WorkerName, Probed]:
    """What each says; who is not connected, or does not answer in time, is not in it."""
    holders = driver.core.holders(question.digest)
    brief = msgspec.structs.replace(question, blobs=())  # who has it needs no room for it

    async def ask(worker: WorkerName) -> Probed | None:
        mine = brief if worker in holders else question
        answers = await driver.ask(worker, lambda ask: Probe(ask=ask, check=mine), deadline_s)
        answer = answers[0] if answers else None
        return answer if isinstance(answer, Probed) else None

    answers = await asyncio.gather(*map(ask, workers))
    pairs = zip(workers, answers, strict=True)
    return {worker: answer for worker, answer in pairs if answer is not None}


def _row(
    driver: MasterDriver, question: Check, worker: WorkerName, answer: Probed | None
) -> CheckView:
    if answer is not None:
        problems = tuple(map(believe.text, answer.problems[:PROBLEMS_MAX]))
        fits: bool | None = not answer.problems
    else:
        known = driver.core.cluster.workers[worker]
        is_ready = known.state is WorkerState.READY
        silent = f"worker {worker!r} does not answer"
        problems = (silent if is_ready else gone(driver.core.cluster, worker),)
        fits = None
    return CheckView(
        worker=worker,
        artifact=question.name,
        digest=question.digest,
        fits=fits,
        problems=problems,
    )


def _selected(driver: MasterDriver, selector: str) -> list[Worker]:
    return select(parse_selector(selector), driver.core.cluster.workers.values())


def _to_ask(driver: MasterDriver, digest: Digest, workers: Iterable[Worker]) -> list[WorkerName]:
    core = driver.core
    return [worker.name for worker in workers if not core.fits(worker.name, digest)]

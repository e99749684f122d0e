"""Questions about output: which worker has it is known here, what it is only there."""

from __future__ import annotations

from collections.abc import Callable

from corps.core import believe
from corps.core.views import rfc3339
from corps.errors import Invalid, NotFound, Unavailable, error_of
from corps.master.driver import ASK_DEADLINE_S, MasterDriver
from corps.master.queries import waiting_s
from corps.model.instance import Instance
from corps.model.name import AttemptKey, InstanceId, attempt_key, did_you_mean
from corps.model.output_view import GoneView, OutputView, PieceView, StreamView
from corps.wire.output import LOG_CHUNK_MAX_BYTES
from corps.wire.worker import (
    FromWorker,
    LogRead,
    OutputRead,
    ReadLog,
    ReadOutput,
    ToWorker,
)

OFFSET_MAX = 1 << 62
STREAMS = ("stdout", "stderr")


async def read_log(
    driver: MasterDriver, id: InstanceId, question: ReadLog, attempt: int | None
) -> LogRead:
    """One piece of a stream. Raise Unavailable when the worker that has it cannot be asked."""
    _check_stream(question.stream)
    _check_limit(question.limit_bytes)
    _check_offset(question.offset)
    wait_s = waiting_s(question.wait_s)

    def ask(ask: int, key: AttemptKey) -> ReadLog:
        return ReadLog(
            ask=ask,
            key=key,
            stream=question.stream,
            offset=question.offset,
            limit_bytes=question.limit_bytes,
            wait_s=wait_s,
        )

    answer = await _ask(driver, _instance(driver, id), attempt, ask, wait_s)
    assert isinstance(answer, LogRead)
    return answer


async def read_output(
    driver: MasterDriver, id: InstanceId, question: ReadOutput, attempt: int | None
) -> OutputView:
    """The next pieces of one stream, or of both in the order of time. Raise Unavailable."""
    if question.stream is not None:
        _check_stream(question.stream)
    _check_limit(question.limit_bytes)
    for offset in (question.stdout, question.stderr):
        _check_offset(offset, least=0)
    if question.since is not None and believe.moment(question.since) is None:
        raise Invalid("since: unix seconds", field="since")
    if question.back_bytes is not None and not 0 <= question.back_bytes < OFFSET_MAX:
        raise Invalid("back_bytes: a number of bytes", field="back_bytes")
    instance = _instance(driver, id)
    number = instance.attempt if attempt is None else attempt
    wait_s = waiting_s(question.wait_s)

    def ask(ask: int, key: AttemptKey) -> ReadOutput:
        return ReadOutput(
            ask=ask,
            key=key,
            stream=question.stream,
            stdout=question.stdout,
            stderr=question.stderr,
            since=question.since,
            back_bytes=question.back_bytes,
            limit_bytes=question.limit_bytes,
            wait_s=wait_s,
            partial=question.partial,
        )

    answer = await _ask(driver, instance, number, ask, wait_s)
    assert isinstance(answer, OutputRead)
    return _view(answer, number)


def _view(answer: OutputRead, attempt: int) -> OutputView:
    return OutputView(
        attempt=attempt,
        pieces=tuple(
            PieceView(
                stream=piece.stream,
                at=rfc3339(believe.moment(piece.at) or 0.0, "microseconds"),
                offset=piece.offset,
                data=piece.data,
            )
            for piece in answer.pieces
        ),
        stdout=StreamView(answer.stdout.next_offset, answer.stdout.size_bytes),
        stderr=StreamView(answer.stderr.next_offset, answer.stderr.size_bytes),
        gone=tuple(GoneView(gone.stream, gone.size_bytes, gone.why) for gone in answer.gone),
        is_final=answer.is_final,
    )


def _instance(driver: MasterDriver, id: InstanceId) -> Instance:
    known = driver.core.cluster.instances
    if id not in known:
        raise NotFound(f"no instance {id[:80]!r}{did_you_mean(id, known)}", instance=id)
    return known[id]


async def _ask(
    driver: MasterDriver,
    instance: Instance,
    attempt: int | None,
    question: Callable[[int, AttemptKey], ToWorker],
    wait_s: float,
) -> FromWorker:
    attempt = instance.attempt if attempt is None else attempt
    if not 0 < attempt <= instance.attempt:
        text = f"no attempt {attempt} of {instance.id!r}: it is at {instance.attempt}"
        raise NotFound(text, instance=instance.id)
    key = attempt_key(instance.id, attempt)
    parts = await driver.ask(
        instance.worker, lambda ask: question(ask, key), wait_s + ASK_DEADLINE_S
    )
    if not parts:
        state = driver.core.cluster.workers[instance.worker].state
        raise Unavailable(
            f"the log of {instance.id!r} is on worker {instance.worker!r}, which does not answer "
            f"({state}): it is kept there, try again when the worker is back"
        )
    answer = parts[0]
    assert isinstance(answer, LogRead | OutputRead)
    if answer.error is not None:
        raise error_of(answer.code, answer.error, {"instance": instance.id})
    return answer


def _check_stream(stream: str) -> None:
    if stream not in STREAMS:
        raise Invalid(f"no stream {stream[:20]!r}: stdout or stderr", field="stream")


def _check_limit(limit_bytes: int) -> None:
    if not 0 < limit_bytes <= LOG_CHUNK_MAX_BYTES:
        raise Invalid(f"limit_bytes: from 1 to {LOG_CHUNK_MAX_BYTES}", field="limit_bytes")


def _check_offset(offset: int, least: int = -OFFSET_MAX) -> None:
    if not least <= offset < OFFSET_MAX:
        raise Invalid(f"no offset {offset} in any log", field="offset")

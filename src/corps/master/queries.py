"""Questions of operators: rows made of the core's tables and of what workers say when asked now."""

from __future__ import annotations

from collections.abc import Sequence

from corps.core.targets import find_instances
from corps.core.views import (
    view_event,
    view_instance,
    view_worker,
)
from corps.errors import Invalid, NotFound, Unavailable
from corps.master.driver import ASK_DEADLINE_S, MasterDriver
from corps.master.usage import live_usage
from corps.model.name import AttemptKey, InstanceId, attempt_key, did_you_mean
from corps.model.view import (
    EventView,
    InstanceView,
    StatusView,
    WorkerView,
)
from corps.wire.worker import (
    LOG_CHUNK_MAX_BYTES,
    LogRead,
    ReadLog,
)

EVENTS_PAGE_MAX = 1_000
WAIT_MAX_S = 60.0
STREAMS = ("stdout", "stderr")


def workers(driver: MasterDriver) -> list[WorkerView]:
    cluster = driver.core.cluster
    return [
        view_worker(worker, driver.core.silence_s(name), cluster.live_count(name))
        for name, worker in sorted(cluster.workers.items())
    ]


def status(driver: MasterDriver, version: str, address: str) -> StatusView:
    cluster = driver.core.cluster
    return StatusView(
        cluster=cluster.meta.cluster,
        version=version,
        address=address,
        epoch=cluster.meta.epoch,
        workers=len(cluster.workers),
        instances_live=sum(cluster.live_count(name) for name in cluster.workers),
    )


async def instances(
    driver: MasterDriver, targets: Sequence[str], *, with_dead: bool
) -> list[InstanceView]:
    """Rows of ps. What the operating system says now comes from each worker, or is null."""
    chosen = find_instances(driver.core.cluster, targets or ("--all",), with_dead=with_dead)
    live = await live_usage(driver, chosen, whole=not targets)
    return [view_instance(instance, live.get(instance.key)) for instance in chosen]


async def events(driver: MasterDriver, after: int, limit: int, wait_s: float) -> list[EventView]:
    """Events after a sequence number; a negative one means the last so many."""
    if not 0 < limit <= EVENTS_PAGE_MAX:
        limit = EVENTS_PAGE_MAX
    cluster = driver.core.cluster
    if after < 0:
        after = max(0, cluster.next_seq - 1 + after)
    if cluster.next_seq - 1 <= after and wait_s > 0:
        await driver.news(min(wait_s, WAIT_MAX_S))
        await driver.settled()
    return [view_event(event) for event in cluster.events if event.seq > after][:limit]


async def read_log(
    driver: MasterDriver, id: InstanceId, question: ReadLog, attempt: int | None
) -> LogRead:
    """One piece of a log. Raise Unavailable when the worker that has it cannot be asked."""
    instance = driver.core.cluster.instances.get(id)
    if instance is None:
        known = driver.core.cluster.instances
        raise NotFound(f"no instance {id[:80]!r}{did_you_mean(id, known)}", instance=id)
    if question.stream not in STREAMS:
        raise Invalid(f"no stream {question.stream[:20]!r}: stdout or stderr", field="stream")
    if not 0 < question.limit_bytes <= LOG_CHUNK_MAX_BYTES:
        raise Invalid(f"limit_bytes: from 1 to {LOG_CHUNK_MAX_BYTES}", field="limit_bytes")
    key: AttemptKey = attempt_key(id, instance.attempt if attempt is None else attempt)
    wait_s = min(max(question.wait_s, 0.0), WAIT_MAX_S)
    parts = await driver.ask(
        instance.worker,
        lambda ask: ReadLog(
            ask=ask,
            key=key,
            stream=question.stream,
            offset=question.offset,
            limit_bytes=question.limit_bytes,
            wait_s=wait_s,
        ),
        wait_s + ASK_DEADLINE_S,
    )
    if not parts:
        state = driver.core.cluster.workers[instance.worker].state
        raise Unavailable(
            f"the log of {id!r} is on worker {instance.worker!r}, which does not answer ({state}): "
            "it is kept there, try again when the worker is back"
        )
    answer = parts[0]
    assert isinstance(answer, LogRead)
    if answer.error is not None:
        raise NotFound(answer.error, instance=id)
    return answer

"""Questions of operators: rows made of the core's tables and of what workers say when asked now."""

from __future__ import annotations

import math
from collections.abc import Sequence

from corps.core.targets import find_instances
from corps.core.views import (
    view_event,
    view_instance,
    view_worker,
)
from corps.errors import Invalid
from corps.master.driver import MasterDriver
from corps.master.usage import live_usage
from corps.model.view import (
    EventView,
    InstanceView,
    StatusView,
    WorkerView,
)

EVENTS_PAGE_MAX = 1_000
WAIT_MAX_S = 60.0


def waiting_s(wait_s: float) -> float:
    """How long a question waits that asks to wait so long. Raise Invalid for what is no time."""
    if not math.isfinite(wait_s):
        raise Invalid("wait_s: seconds", field="wait_s")
    return min(max(wait_s, 0.0), WAIT_MAX_S)


def workers(driver: MasterDriver) -> list[WorkerView]:
    cluster = driver.core.cluster
    return [
        view_worker(
            worker,
            driver.core.silence_s(name),
            cluster.live_count(name),
            cluster.roll.members.get(name),
        )
        for name, worker in sorted(cluster.workers.items())
    ]


def status(driver: MasterDriver, version: str, address: str) -> StatusView:
    cluster = driver.core.cluster
    return StatusView(
        cluster=cluster.meta.cluster,
        version=version,
        address=address,
        epoch=cluster.meta.epoch,
        now=driver.clock(),
        workers=len(cluster.workers),
        instances_live=sum(cluster.live_count(name) for name in cluster.workers),
    )


async def instances(
    driver: MasterDriver, targets: Sequence[str], *, with_dead: bool
) -> list[InstanceView]:
    """Rows of ps. What the operating system says now comes from each worker, or is null."""
    chosen = find_instances(driver.core.cluster, targets or ("--all",), with_dead=with_dead)
    live = await live_usage(driver, chosen, whole=not targets)
    now = driver.clock()
    return [view_instance(instance, live.get(instance.key), now) for instance in chosen]


async def events(driver: MasterDriver, after: int, limit: int, wait_s: float) -> list[EventView]:
    """Events after a sequence number; a negative one means the last so many."""
    if not 0 < limit <= EVENTS_PAGE_MAX:
        limit = EVENTS_PAGE_MAX
    cluster = driver.core.cluster
    if after < 0:
        after = max(0, cluster.next_seq - 1 + after)
    wait_s = waiting_s(wait_s)
    if cluster.next_seq - 1 <= after and wait_s > 0:
        await driver.news(wait_s)
        await driver.settled()
    return [view_event(event) for event in cluster.events if event.seq > after][:limit]

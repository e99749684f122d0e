"""`GET /v1/audit/trail`: who did what, as it lies in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import get
from litestar.datastructures import State

from corps.master.driver import MasterDriver
from corps.master.queries import waiting_s
from corps.model.trail import TRAIL_PAGE_MAX, TrailPage

if TYPE_CHECKING:
    from corps.master.http import Master


@get("/v1/audit/trail", summary="The audit trail, in order: who did what, from where")
async def trail(
    state: State, after: int = 0, limit: int = TRAIL_PAGE_MAX, wait_s: float = 0.0
) -> TrailPage:
    """Entries after a number; a negative one means the last so many."""
    master: Master = state.master
    return await read_trail(master.driver, after, limit, wait_s)


async def read_trail(driver: MasterDriver, after: int, limit: int, wait_s: float) -> TrailPage:
    if not 0 < limit <= TRAIL_PAGE_MAX:
        limit = TRAIL_PAGE_MAX
    chain = driver.core.cluster.chain
    if after < 0:
        after = max(0, chain.head.seq + after)
    wait_s = waiting_s(wait_s)
    if chain.head.seq <= after and wait_s > 0:
        await driver.news(wait_s)
    head = chain.head
    await driver.settled()
    page = await driver.trail(after, limit)
    # Whoever takes the last entries from under a master that runs does not take its memory.
    return page if page.head.seq > head.seq else msgspec.structs.replace(page, head=head)

"""A worker's standing with its master: what becomes of its certificate while it is connected."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from corps.wire.worker import Expired, ToWorker, Trust, Welcome
from corps.worker.driver import WorkerDriver
from corps.worker.road import Road

if TYPE_CHECKING:  # and else only where there is a certificate: what reads one takes 8 MB
    from corps.worker.renewal import Renewal


class Standing:
    """Hears all that the master says. Without a certificate (`renewal` None) it passes it on."""

    def __init__(self, driver: WorkerDriver, renewal: Renewal | None) -> None:
        self._driver, self._renewal = driver, renewal
        self._is_welcome = False
        self._tasks: set[asyncio.Task[None]] = set()
        if renewal is not None:
            renewal.on_renewed = self._tell

    def hear(self, messages: tuple[ToWorker, ...]) -> None:
        self._driver.master_said(messages)
        if self._renewal is None:
            return
        for message in messages:
            match message:
                case Expired():
                    self._renewal.told_expired()
                case Trust():
                    task = asyncio.get_running_loop().create_task(self._trust(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case Welcome():
                    self._is_welcome = True
                    self._tell()
                case _:
                    pass  # the driver's

    async def before_dialling(self) -> None:
        """Raise OSError or Unavailable: not now; Denied: this worker is none any more."""
        self._is_welcome = False
        if self._renewal is not None:
            await self._renewal.before_dialling()

    async def keep(self) -> None:
        """Renew in time, for ever. Raise as above."""
        if self._renewal is not None:
            await self._renewal.keep()
        await asyncio.get_running_loop().create_future()

    async def _trust(self, message: Trust) -> None:
        assert self._renewal is not None
        if await self._renewal.trust(message):
            self._tell()

    def _tell(self) -> None:
        """Behind the inventory, by which this worker is known: not before there is one."""
        if self._renewal is not None and self._is_welcome:
            self._driver.tell(self._renewal.trusting())


def stand(driver: WorkerDriver, road: Road) -> Standing:
    if road.credentials is None:
        return Standing(driver, None)
    from corps.worker.renewal import Renewal  # noqa: PLC0415  # as above

    return Standing(driver, Renewal(road.credentials, road.address, random.Random()))

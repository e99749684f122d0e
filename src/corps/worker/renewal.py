"""The next certificate in time: at a random moment of the present one's life, or before dialling
when that is over, after however long an absence.
"""

from __future__ import annotations

import asyncio
import logging
import random

from corps.clock import Clock
from corps.errors import ProtocolError, Unavailable
from corps.net.address import format_address
from corps.net.join_client import renew
from corps.trust.credentials import Credentials

EARLIEST, LATEST = 0.5, 0.8  # of its life: many workers do not come all at once
LOOK_S = 1.0
RETRY_S = 30.0

_log = logging.getLogger("corps.worker")


class Renewal:
    """Of these credentials, by the master at `address`. What the master itself refuses raises
    Denied: this worker is none any more."""

    def __init__(
        self, credentials: Credentials, address: tuple[str, int], rng: random.Random
    ) -> None:
        self._credentials, self._address, self._rng = credentials, address, rng
        self._due = rng.uniform(EARLIEST, LATEST)
        self._is_over = False
        self._turn = asyncio.Lock()

    def told_expired(self) -> None:
        """By the master, which knows better than the date of a file."""
        self._is_over = True

    async def before_dialling(self) -> None:
        """Have a certificate that holds. Raise OSError or Unavailable: not now."""
        async with self._turn:
            if self._is_over or self._spent() >= 1.0:
                await self._renew()

    async def keep(self) -> None:
        """For ever."""
        while True:
            wait_s = LOOK_S
            async with self._turn:
                if self._is_over or self._spent() >= self._due:
                    wait_s = RETRY_S
                    try:
                        await self._renew()
                    except (OSError, Unavailable, ProtocolError) as error:
                        where = format_address(self._address)
                        _log.warning("no new certificate from %s yet: %s", where, error)
            await asyncio.sleep(wait_s)

    async def _renew(self) -> None:
        joined = await asyncio.to_thread(renew, self._address, self._credentials)
        self._credentials.replace(joined.certificate, joined.authorities)
        self._due = self._rng.uniform(EARLIEST, LATEST)
        self._is_over = False
        _log.info("a new certificate of %s", joined.worker)

    def _spent(self) -> float:
        return self._credentials.spent(Clock()())

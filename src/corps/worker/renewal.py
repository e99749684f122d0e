"""The next certificate in time: at a random moment of the present one's life, or before dialling
when that is over, after however long an absence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from corps.clock import Clock
from corps.errors import ProtocolError, Unavailable
from corps.net.address import format_address
from corps.net.join_client import renew
from corps.trust.credentials import Credentials
from corps.trust.names import load_authorities
from corps.wire.worker import Trust, Trusting

EARLIEST, LATEST = 0.5, 0.8  # of its life: many workers do not come all at once
LOOK_S = 1.0
RETRY_S = 30.0
SPREAD_MAX_S = 600.0

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
        self._wanted_at: float | None = None  # on the loop's clock: the CA is another one
        self._turn = asyncio.Lock()
        self.on_renewed: Callable[[], None] = lambda: None

    def told_expired(self) -> None:
        """By the master, which knows better than the date of a file."""
        self._is_over = True

    async def trust(self, message: Trust) -> bool:
        """Other CAs from now on. False: they are as before, and so there is nothing to tell."""
        async with self._turn:
            before = self._credentials.authorities
            try:
                load_authorities(message.authorities)
                await asyncio.to_thread(self._credentials.trust, message.authorities)
            except (ValueError, OSError) as error:  # rubbish, or a full disk: it asks again
                _log.error("cannot keep the CAs that the master sent: %s", error)
                return False
            pins, issuer = self._credentials.pins()
            if issuer != pins[0] and self._wanted_at is None:
                spread_s = self._rng.uniform(0, min(message.spread_s, SPREAD_MAX_S))
                self._wanted_at = asyncio.get_running_loop().time() + spread_s
            return self._credentials.authorities != before

    def trusting(self) -> Trusting:
        pins, issuer = self._credentials.pins()
        return Trusting(pins=pins, issuer=issuer)

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
                if self._is_due():
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
        self._is_over, self._wanted_at = False, None
        _log.info("a new certificate of %s", joined.worker)
        self.on_renewed()

    def _is_due(self) -> bool:
        now = asyncio.get_running_loop().time()
        is_wanted = self._wanted_at is not None and now >= self._wanted_at
        return self._is_over or is_wanted or self._spent() >= self._due

    def _spent(self) -> float:
        return self._credentials.spent(Clock()())

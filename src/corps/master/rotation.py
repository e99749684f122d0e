"""Carries a rotation of the CA on, as far as the workers are; tells the core which CAs there are.

Wanted is what the core has saved, done is what the files say: a master that was killed goes on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from corps.core.events import Rooted
from corps.core.views import rfc3339
from corps.master.certificates import Certificates
from corps.master.driver import MasterDriver
from corps.model.trust import CaStage, CaView

if TYPE_CHECKING:
    from corps.trust.authority import Authority

LOOK_S = 0.5

_log = logging.getLogger("corps.master")


class Rotations:
    """The one that may be under way."""

    def __init__(self, driver: MasterDriver, certificates: Certificates) -> None:
        self._driver, self._certificates = driver, certificates
        self._told = b""

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._driver.settled()
            authority = self._certificates.known
            if authority is not None:
                self._look(authority)
            await asyncio.sleep(LOOK_S)

    def _look(self, authority: Authority) -> None:
        if authority.bundle_pem == self._told and self._is_due(authority):
            self._advance(authority)
            self._certificates.renew()
        if authority.bundle_pem != self._told:
            self._told = authority.bundle_pem
            self._driver.feed(Rooted(self._told, authority.pins))

    def _is_due(self, authority: Authority) -> bool:
        core = self._driver.core
        wanted = core.cluster.meta.rotation
        if wanted is None:
            return False
        is_waiting = authority.stage is not CaStage.STEADY
        return not core.lagging() if is_waiting else wanted.pin == authority.pin

    def _advance(self, authority: Authority) -> None:
        match authority.stage:
            case CaStage.STEADY:
                authority.prepare(self._driver.clock())
            case CaStage.SPREADING:
                authority.promote()
            case CaStage.REPLACING:
                authority.retire()
        _log.info("rotation of the CA: %s, trusted are %s", authority.stage, authority.pins)


def view_ca(driver: MasterDriver, authority: Authority) -> CaView:
    wanted = driver.core.cluster.meta.rotation
    return CaView(
        pin=authority.pin,
        trusted=authority.pins,
        stage=authority.stage,
        lagging=driver.core.lagging(),
        began_at=None if wanted is None else rfc3339(wanted.began_at),
        began_by=None if wanted is None else wanted.by,
    )

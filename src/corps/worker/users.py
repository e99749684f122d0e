"""As whom things run here, and whose the directories are that they run in.

Either this daemon and its keeper have the same rights; or the keeper was started before, with
rights that the daemon has not: then nothing runs as the daemon itself, and what needs those rights
is the keeper's to do (ADR 31).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable

import msgspec

from corps.errors import Denied
from corps.model.name import AttemptKey
from corps.model.terms import Terms
from corps.wire import keeper
from corps.worker.home import Home
from corps.worker.layout import Layout
from corps.worker.terms import SpawnTerms, spawn_terms, user_environment

CLEAR_S = 60.0  # for a directory with much in it; what is left then is left

_log = logging.getLogger("corps.worker")


class Users:
    """`send` reaches the keeper."""

    def __init__(self, home: Home, send: Callable[[keeper.ToKeeper], None]) -> None:
        self._policy, self._send = home.policy, send
        self._is_split = home.keeper is not None
        self._clearing: dict[str, asyncio.Future[int]] = {}

    def terms(self, terms: Terms) -> SpawnTerms:
        """Raise Invalid for a user that is not known, Denied for one that nothing here can be."""
        user = terms.user or self._policy.default_user()
        if user is None and self._is_split:
            raise Denied(
                "nothing runs as this worker itself: launch with --user, or have its policy name "
                "a default_user"
            )
        return spawn_terms(msgspec.structs.replace(terms, user=user), may_choose=self._is_split)

    def settle(self, layout: Layout, key: AttemptKey, terms: SpawnTerms) -> dict[str, str]:
        """Its directory is its user's; returns what its environment says of that user. OSError."""
        work = layout.work(key)
        if terms["uid"] is None or terms["gid"] is None:
            return {"HOME": work}
        layout.give(key, terms["uid"], terms["gid"], is_ours=not self._is_split)
        return user_environment(terms["uid"], work)

    async def remove(self, layout: Layout, key: AttemptKey) -> None:
        """All files of an instance. What cannot be deleted stays, and is told."""
        work = layout.work(key)
        if self._is_split and _is_foreign(work):
            await self._clear(work)
        await asyncio.to_thread(shutil.rmtree, layout.home(key), ignore_errors=True)

    def cleared(self, said: keeper.Cleared) -> None:
        future = self._clearing.get(said.directory)
        if future is not None and not future.done():
            future.set_result(said.errno)

    async def _clear(self, work: str) -> None:
        future = self._clearing[work] = asyncio.get_running_loop().create_future()
        self._send(keeper.Clear(directory=work))
        try:
            async with asyncio.timeout(CLEAR_S):
                number = await future
            with contextlib.suppress(OSError):  # to look into it first, as below, is forbidden
                os.rmdir(work)
            if number:
                _log.warning("cannot delete what is in %s: %s", work, os.strerror(number))
        except TimeoutError:
            _log.warning("cannot delete what is in %s: its keeper does not answer", work)
        finally:
            self._clearing.pop(work, None)


def _is_foreign(path: str) -> bool:
    try:
        return os.lstat(path).st_uid != os.geteuid()
    except FileNotFoundError:
        return False

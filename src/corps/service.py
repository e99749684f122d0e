"""What a service manager is told: a daemon is ready, and still lives (sd_notify(3))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

DAY_S = 86_400.0


def notify(state: str) -> None:
    """Nothing where no manager has asked for it; one that does not listen is not waited for."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.sendto(state.encode(), address.replace("@", "\0", 1))


async def tell_alive() -> None:
    """Say that the loop runs, for ever: a daemon that stands still is started again."""
    period_s = int(os.environ.get("WATCHDOG_USEC") or 0) / 1_000_000
    notify("READY=1")
    while True:
        await asyncio.sleep(period_s / 3 or DAY_S)
        notify("WATCHDOG=1")

"""The worker's end of the link: no death of a keeper goes unnoticed."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from pathlib import Path

import msgspec
import uvloop

from corps.wire.keeper import FromKeeper, Listing
from corps.wire.worker import Totals
from corps.worker.keeper_link import KeeperLink

DEADLINE_S = 20.0


def test_a_keeper_that_dies_with_requests_unread_and_answers_on_their_way_is_gone(
    tmp_path: Path,
) -> None:
    """Its socket then has an error behind the data: epoll tells of both at once, and once."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    here = os.open(tmp_path, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/keeper.sock")
    os.close(here)
    listener.listen()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        said = runner.run(_live_and_let_die(tmp_path, listener))
    assert [type(message) for message in said] == [Listing]


async def _live_and_let_die(directory: Path, listener: socket.socket) -> list[FromKeeper]:
    said: list[FromKeeper] = []
    gone = asyncio.Event()
    link = KeeperLink(directory, lambda messages, _: said.extend(messages), gone.set)
    await link.open()
    keeper, _ = listener.accept()
    await asyncio.sleep(0)  # the loop sends the request
    assert select.select([keeper], [], [], DEADLINE_S)[0]
    body = msgspec.json.encode(
        Listing(attempts=(), totals=Totals(), keeper_pid=os.getpid(), is_last=True)
    )
    keeper.sendall(struct.pack(">I", len(body)) + body)
    keeper.close()
    listener.close()
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    link.close()
    return said

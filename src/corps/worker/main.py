"""The worker daemon: adopt what runs, then dial the master, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from typing import Any

import uvloop

from corps.clock import Clock
from corps.config import Settings
from corps.core.events import Linked, Unlinked
from corps.core.worker import WorkerCore
from corps.daemon import (
    hide_memory,
    hold_lock,
    raise_descriptor_limit,
    raise_priority,
    refuse_optimized,
    settle_memory,
    start_log,
)
from corps.errors import Denied, ProtocolError, Unavailable
from corps.model.name import check_name
from corps.net.address import is_loopback, parse_address
from corps.net.connection import Connection
from corps.service import tell_alive
from corps.store.blobs import BlobStore
from corps.store.selftest import try_disk
from corps.store.trees import Trees
from corps.wire.codec import CONTROL_PREFACE
from corps.wire.worker import ToWorker
from corps.worker.driver import WorkerDriver
from corps.worker.facts import make_hello, own_name
from corps.worker.home import Home
from corps.worker.peers import Peers
from corps.worker.policy import policy_file
from corps.worker.road import Road, load_credentials
from corps.worker.standing import Standing, stand
from corps.worker.state import begin

RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
SWEEP_S = 1.0

_log = logging.getLogger("corps.worker")


def run(
    settings: Settings,
    *,
    master: str,
    name: str | None,
    labels: dict[str, str],
) -> None:
    """Run a worker until SIGTERM, SIGINT or the master's word. Raise CorpsError if it cannot."""
    refuse_optimized()
    hide_memory()
    address = parse_address(master)
    name = check_name("worker", name) if name else own_name(settings.worker_dir(""))
    directory = settings.worker_dir(name)
    road = Road(address, load_credentials(directory))
    if road.credentials is None and not is_loopback(address[0]):
        raise Denied(
            f"{master} is on another machine, and {name!r} has no certificate: join with a token "
            "('corps token create' at the master makes one)"
        )
    with hold_lock(directory, "worker"):
        start_log()
        for warning in try_disk(directory):
            _log.warning("%s", warning)
        raise_descriptor_limit()
        nice = raise_priority()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, name, labels, road, nice))


async def _run(
    settings: Settings, name: str, labels: dict[str, str], road: Road, nice: int
) -> None:
    directory = settings.worker_dir(name)
    file = begin(directory)
    hello = make_hello(name, labels, file, may_choose=settings.keeper_dir is not None)
    blobs = BlobStore(directory, durable=False)  # a power loss is found by the boot id
    trees = Trees(directory, blobs)
    core = WorkerCore(hello, trees.installed())
    home = Home(
        directory=directory,
        name=name,
        file=file,
        blobs=blobs,
        trees=trees,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        sample_s=settings.sample_s,
        nice=nice,
        keeper=settings.keeper_dir,
        policy=policy_file(directory, settings.policy),
    )
    driver = WorkerDriver(core, home, Clock())
    driver.dial = road.dial
    if road.credentials is not None and not is_loopback(road.address[0]):
        driver.peers = Peers(blobs, road.credentials)  # of one machine all share the network
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await driver.start()
    settle_memory()
    driver.tick()
    _log.info("worker %s in %s, master %s", name, directory, road)
    standing = stand(driver, road)
    parts: set[asyncio.Future[Any]] = {
        loop.create_task(tell_alive()),
        loop.create_task(_stay_linked(driver, road, standing)),
        loop.create_task(standing.keep()),
        loop.create_task(stop.wait()),
        driver.over,
    }
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await driver.close()


async def _stay_linked(driver: WorkerDriver, road: Road, standing: Standing) -> None:
    """Dial, serve, dial again: with full jitter, so that many workers do not come all at once."""
    rng = random.Random()
    delay_s = RETRY_MIN_S
    complained = False
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await standing.before_dialling()
            await _serve(driver, road, standing)
            complained = False
        except (OSError, TimeoutError, Unavailable, ProtocolError) as error:
            if not complained:
                _log.warning("cannot reach the master at %s: %s", road, error)
                complained = True
        # One that ends as soon as it is made is no better than none.
        is_long = asyncio.get_running_loop().time() - began > RETRY_MAX_S
        delay_s = RETRY_MIN_S if is_long else min(delay_s * 2, RETRY_MAX_S)
        await asyncio.sleep(rng.uniform(0, delay_s))


async def _serve(driver: WorkerDriver, road: Road, standing: Standing) -> None:
    """One connection, from its first byte to its end."""
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    connection: Connection[ToWorker] = Connection(
        ToWorker,
        standing.hear,
        lambda reason: None if closed.done() else closed.set_result(reason),
    )
    transport = await road.open_control(connection)
    transport.write(CONTROL_PREFACE)
    driver.tell = connection.send
    driver.feed(Linked())
    try:
        while not closed.done():
            await asyncio.wait({closed}, timeout=SWEEP_S)
            if connection.is_stuck():
                connection.close("an unfinished frame")
        _log.warning("the connection to the master ended: %s", closed.result())
    finally:
        driver.tell = lambda message: None
        driver.feed(Unlinked())
        transport.abort()

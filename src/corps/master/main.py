"""The master daemon: build everything, run until told to end, shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import ipaddress
import logging
import os
import random
import secrets
import signal
from pathlib import Path
from typing import Any

import uvloop

from corps.clock import Clock
from corps.config import Settings
from corps.core.cluster import Cluster
from corps.core.events import Save
from corps.core.master import MasterCore
from corps.core.records import Meta, Record
from corps.daemon import (
    hide_memory,
    hold_lock,
    raise_descriptor_limit,
    raise_priority,
    refuse_optimized,
    settle_memory,
    spare_memory,
    start_log,
    unix_listener,
    write_atomically,
)
from corps.errors import Invalid
from corps.master.api import Api
from corps.master.certificates import Certificates, hosts_of
from corps.master.door import Door, open_door
from corps.master.driver import MasterDriver
from corps.master.http import Master
from corps.master.rotation import Rotations
from corps.master.sessions import listen
from corps.master.shelf import Shelf
from corps.model.name import WorkerName
from corps.net.address import format_address, parse_address
from corps.net.bulk import BulkListener
from corps.service import tell_alive
from corps.store.blobs import BlobStore
from corps.store.selftest import try_disk
from corps.store.sqlite import SqliteStore
from corps.wire.worker import Shutdown

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SHUTDOWN_LINGER_S = 0.2

_log = logging.getLogger("corps.master")


def run(settings: Settings, *, accepts_rollback: bool = False) -> None:
    """Run the master until SIGTERM or SIGINT. Raise CorpsError when it cannot start."""
    refuse_optimized()
    hide_memory()
    spare_memory()
    directory = settings.master_dir
    with hold_lock(directory, "master"):
        start_log()
        for warning in try_disk(directory):
            _log.warning("%s", warning)
        raise_descriptor_limit()
        raise_priority()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, directory, accepts_rollback))


async def _run(settings: Settings, directory: Path, accepts_rollback: bool) -> None:
    clock = _clock(directory / "clock")
    store = SqliteStore(directory / "state.db")
    core = MasterCore(
        _load(store),
        settings.heartbeat_s,
        clock(),
        random.Random(),
        life=secrets.token_hex(8),
        accepts_rollback=accepts_rollback,
    )
    driver = MasterDriver(core, store, clock, directory)
    blobs = BlobStore(directory)
    hosts = _hosts(settings)
    certificates = Certificates(directory / "trust", core.cluster.meta.cluster, clock, hosts)
    door = open_door(settings, driver, blobs, certificates)
    shelf = Shelf(driver, blobs)
    listening = unix_listener(directory / "bulk.sock")
    bulk = BulkListener(listening, blobs, may_put=True, intake=shelf.intake)
    driver.on_artifact_dropped = shelf.dropped
    stop = asyncio.Event()
    version = importlib.metadata.version("corps")
    shut_down = functools.partial(_shut_down, driver, stop)
    https = None if settings.api is None else listen(*parse_address(settings.api))
    api_address = None if https is None else format_address(https.getsockname()[:2])
    master = Master(driver, blobs, version, door.address, shut_down, shelf, certificates)
    api = Api(master._replace(api_address=api_address, host=settings.host), https, hosts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    work = [
        tell_alive(),
        *door.work(),
        Rotations(driver, certificates).run(),
        *api.work(unix_listener(settings.api_socket)),
    ]
    tasks = [loop.create_task(one) for one in work]
    write_atomically(directory / "api-address", f"{api_address or ''}\n")
    write_atomically(directory / "address", f"{door.address}\n")
    _announce(settings, door, api_address)
    settle_memory()
    driver.tick()
    try:
        await _until_over(driver, stop, tasks)
    finally:
        await _end(driver, api, door, tasks)
        await asyncio.to_thread(bulk.close)


async def _until_over(
    driver: MasterDriver, stop: asyncio.Event, tasks: list[asyncio.Task[None]]
) -> None:
    """Returns when told to end; raises what ended a part of the daemon that should not end."""
    ending = asyncio.get_running_loop().create_task(stop.wait())
    try:
        parts: set[asyncio.Future[Any]] = {ending, driver.failed, *tasks}
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        ending.cancel()


async def _end(
    driver: MasterDriver,
    api: Api,
    door: Door,
    tasks: list[asyncio.Task[None]],
) -> None:
    api.end()
    door.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(tasks[-1]), 2.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await driver.close()


def _clock(path: Path) -> Clock:
    """The clock of the first master of this boot: its deadlines hold when the wall clock steps."""
    boot_id = BOOT_ID.read_text().strip()
    try:
        saved, _, began_at = path.read_text().partition(" ")
        if saved == boot_id:
            return Clock(float(began_at))
    except (OSError, ValueError) as error:
        if path.exists():
            _log.warning("cannot read %s, made anew: %s", path, error)
    clock = Clock()
    write_atomically(path, f"{boot_id} {clock.began_at!r}")
    return clock


def _load(store: SqliteStore) -> Cluster:
    """The cluster as it was saved, or a new one, saved."""
    records: list[Record] = store.load()
    meta = next((record for record in records if isinstance(record, Meta)), None)
    if meta is None:
        meta = Meta(cluster=secrets.token_hex(8), epoch=0)
        store.commit([Save(meta)])
    return Cluster(meta, records)


def _shut_down(driver: MasterDriver, stop: asyncio.Event, workers: list[WorkerName]) -> None:
    for name in workers:
        session = driver.core.session_of(name)
        if session is not None:
            driver.on_send(session, Shutdown())
    asyncio.get_running_loop().call_later(SHUTDOWN_LINGER_S, stop.set)


def _hosts(settings: Settings) -> list[str]:
    """What others may call this master, the best name first."""
    listens = [settings.listen, *([] if settings.api is None else [settings.api])]
    named = [] if settings.host is None else [settings.host]
    if hosts_of(named) != named:
        raise Invalid(f"bad host name {settings.host!r}: a name or an address", field="host")
    return hosts_of([*named, *(parse_address(one)[0] for one in listens)])


def _announce(settings: Settings, door: Door, api_address: str | None) -> None:
    _log.info("master of %s, pid %d", settings.state_dir, os.getpid())
    _log.info("operators: unix://%s", settings.api_socket)
    if api_address is not None:
        _log.info("operators elsewhere: https://%s, with a token ('corps user')", api_address)
        _warn_of_everywhere("operators", api_address)
    if door.is_local:
        _log.info("workers of this machine: corps worker --master %s", door.address)
        return
    _log.info("workers, by a token ('corps token create'): %s", door.address)
    _warn_of_everywhere("workers", door.address)


def _warn_of_everywhere(whose: str, address: str) -> None:
    if ipaddress.ip_address(parse_address(address)[0].partition("%")[0]).is_unspecified:
        _log.warning("the port of the %s can be reached on every address of this machine", whose)

"""The master daemon: build everything, run until told to end, shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import logging
import os
import random
import secrets
import signal
import socket
import threading
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
    start_log,
    unix_listener,
    write_atomically,
)
from corps.errors import Denied, Invalid
from corps.master.api import Api
from corps.master.certificates import Certificates, hosts_of
from corps.master.driver import MasterDriver
from corps.master.http import Master
from corps.master.rotation import Rotations
from corps.master.sessions import Sessions, listen
from corps.master.shelf import Shelf
from corps.master.swarm import swarm_server
from corps.model.name import WorkerName
from corps.net.address import format_address, is_loopback, parse_address
from corps.net.bulk import BulkListener, serve_bulk
from corps.service import tell_alive
from corps.store.blobs import BlobStore
from corps.store.selftest import try_disk
from corps.store.sqlite import SqliteStore
from corps.wire.worker import Shutdown

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SHUTDOWN_LINGER_S = 0.2
BULK_THREADS_MAX = 32

_log = logging.getLogger("corps.master")


def run(settings: Settings, *, insecure_network: bool, accepts_rollback: bool = False) -> None:
    """Run the master until SIGTERM or SIGINT. Raise CorpsError when it cannot start."""
    refuse_optimized()
    hide_memory()
    directory = settings.master_dir
    with hold_lock(directory, "master"):
        start_log()
        for warning in try_disk(directory):
            _log.warning("%s", warning)
        raise_descriptor_limit()
        raise_priority()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, directory, insecure_network, accepts_rollback))


async def _run(
    settings: Settings, directory: Path, insecure_network: bool, accepts_rollback: bool
) -> None:
    host, port = parse_address(settings.listen)
    _check_network(host, insecure_network)
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
    sessions = Sessions(driver, _bulk_server(blobs), silence_s=2 * settings.heartbeat_s)
    sessions.serve_swarm = swarm_server(blobs)
    listener = listen(host, port)
    address = format_address(listener.getsockname()[:2])
    shelf = Shelf(driver, blobs)
    listening = unix_listener(directory / "bulk.sock")
    bulk = BulkListener(listening, blobs, may_put=True, intake=shelf.intake)
    driver.on_artifact_dropped = shelf.dropped
    stop = asyncio.Event()
    hosts = _hosts(settings)
    certificates = Certificates(directory / "trust", core.cluster.meta.cluster, clock, hosts)
    version = importlib.metadata.version("corps")
    shut_down = functools.partial(_shut_down, driver, stop)
    https = None if settings.api is None else listen(*parse_address(settings.api))
    api_address = None if https is None else format_address(https.getsockname()[:2])
    master = Master(driver, blobs, version, address, shut_down, shelf, certificates)
    api = Api(master._replace(api_address=api_address, host=settings.host), https, hosts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    work = [
        sessions.accept(listener),
        sessions.sweep(),
        tell_alive(),
        Rotations(driver, certificates).run(),
        *api.work(unix_listener(settings.api_socket)),
    ]
    tasks = [loop.create_task(one) for one in work]
    write_atomically(directory / "api-address", f"{api_address or ''}\n")
    write_atomically(directory / "address", f"{address}\n")
    _announce(settings, address, api_address)
    settle_memory()
    driver.tick()
    try:
        await _until_over(driver, stop, tasks)
    finally:
        await _end(driver, api, sessions, tasks)
        listener.close()
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
    sessions: Sessions,
    tasks: list[asyncio.Task[None]],
) -> None:
    api.end()
    sessions.close()
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


def _check_network(host: str, insecure_network: bool) -> None:
    if is_loopback(host):
        return
    if not insecure_network:
        raise Denied(
            f"{host} can be reached from other machines and there is no TLS yet: listen on "
            "127.0.0.1, or say --insecure-network on a network where you trust everyone"
        )
    _log.warning("--insecure-network: anyone who can reach %s can read and run everything", host)


def _bulk_server(blobs: BlobStore) -> Any:
    """Serve a worker's bulk connection in a thread of its own; workers only fetch."""
    slots = threading.BoundedSemaphore(BULK_THREADS_MAX)

    def serve(sock: socket.socket) -> None:
        try:
            serve_bulk(sock, blobs, may_put=False)
        finally:
            slots.release()

    def start(sock: socket.socket) -> None:
        if not slots.acquire(blocking=False):
            sock.close()
            return
        sock.setblocking(True)
        threading.Thread(target=serve, args=(sock,), name="bulk", daemon=True).start()

    return start


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


def _announce(settings: Settings, address: str, api_address: str | None) -> None:
    _log.info("master of %s, pid %d", settings.state_dir, os.getpid())
    _log.info("operators: unix://%s", settings.api_socket)
    if api_address is not None:
        _log.info("operators elsewhere: https://%s, with a token ('corps user')", api_address)
    _log.info("workers join with: corps worker --master %s", address)

"""What a worker says of itself: its machine, its boot, and its state directory's identity."""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import socket
from pathlib import Path

import msgspec

from corps.daemon import write_atomically
from corps.errors import Invalid, Unavailable
from corps.model.name import check_name
from corps.wire.codec import PROTOCOL_VERSION
from corps.wire.worker import Hello

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class WorkerFile(msgspec.Struct, frozen=True, kw_only=True):
    """worker.json: made once; the cluster is added when the first master says welcome."""

    state_id: str
    cluster: str | None = None


def load_worker_file(directory: Path) -> WorkerFile:
    """Read it, or make it. Raise Unavailable when it cannot be read: nothing is guessed."""
    path = directory / "worker.json"
    if not path.exists():
        made = WorkerFile(state_id=secrets.token_hex(16))
        save_worker_file(directory, made)
        return made
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerFile)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"cannot read {path}: {error}; nothing was changed") from error


def save_worker_file(directory: Path, file: WorkerFile) -> None:
    write_atomically(directory / "worker.json", msgspec.json.encode(file).decode())


def default_name() -> str:
    """The machine's name as a worker name. Raise Invalid when none can be made of it."""
    host = socket.gethostname().partition(".")[0].lower()
    name = re.sub("[^a-z0-9_-]+", "-", host).strip("-_")
    if not name or name == "localhost":
        raise Invalid(f"the host name {host!r} names no machine: use --name", field="name")
    return check_name("worker", name[:63])


def make_hello(name: str, labels: dict[str, str], file: WorkerFile) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        name=name,
        state_id=file.state_id,
        boot_id=BOOT_ID.read_text().strip(),
        cluster=file.cluster,
        labels=labels,
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        version=importlib.metadata.version("corps"),
    )

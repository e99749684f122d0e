"""What a worker says of itself: its machine, its boot, its state directory and its process."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import re
import secrets
import socket
from pathlib import Path

from corps.errors import Invalid
from corps.model.name import WorkerName, check_name
from corps.model.worker import Facts
from corps.wire.codec import PROTOCOL_VERSION
from corps.wire.worker import Hello
from corps.worker.state import WorkerFile
from corps.worker.terms import own_user


def default_name() -> str:
    """The machine's name as a worker name. Raise Invalid when none can be made of it."""
    host = socket.gethostname().partition(".")[0].lower()
    name = re.sub("[^a-z0-9_-]+", "-", host).strip("-_")
    if not name or name == "localhost":
        raise Invalid(f"the host name {host!r} names no machine: use --name", field="name")
    return check_name("worker", name[:63])


def members(workers: Path) -> list[WorkerName]:
    """Workers with a directory in `workers` that have joined by a token."""
    return sorted(path.parent.parent.name for path in workers.glob("*/trust/cert.pem"))


def own_name(workers: Path) -> WorkerName:
    """What the one worker here joined as, or else the machine's name. Raise Invalid: neither."""
    names = members(workers)
    if len(names) == 1:
        return names[0]
    name = default_name()
    if names and name not in names:
        raise Invalid(f"{', '.join(names)} have joined here: say which with --name", field="name")
    return name


def make_hello(
    name: str, labels: dict[str, str], file: WorkerFile, *, may_choose: bool = False
) -> Hello:
    """`may_choose`: its keeper can run things as others, if it cannot itself."""
    return Hello(
        protocol=PROTOCOL_VERSION,
        name=name,
        state_id=file.state_id,
        boot_id=file.boot_id,
        cluster=file.cluster,
        labels=labels,
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        version=importlib.metadata.version("corps"),
        incarnation=file.incarnation,
        process_id=secrets.token_hex(8),
        is_copy=file.is_copy,
        epoch=file.epoch,
        life=file.life,
        heard_seq=file.heard_seq,
        facts=read_facts(may_choose),
    )


def read_facts(may_choose: bool = False) -> Facts:
    """Of this machine. The C library is the one this process runs on."""
    uname = os.uname()
    return Facts(
        machine=uname.machine,
        kernel=uname.release,
        libc=_libc(),
        runs_as=() if may_choose or os.geteuid() == 0 else own_user(),
    )


def _libc() -> str:
    """Only glibc has this name, and it answers `glibc 2.36`."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return "musl" if glob.glob("/lib/ld-musl-*.so.1") else ""

"""Who is at the other end of a connection, as its certificate says; nothing else says it."""

from __future__ import annotations

import msgspec

from corps.errors import Denied, Invalid
from corps.model.name import WorkerName, check_name

SCHEME = "spiffe://corps/"
MASTER = "master"
WORKER = "worker"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`worker` of `cluster`, or its master when None. `key` is the SHA-256 of its public key (the
    SubjectPublicKeyInfo in DER), `serial` the certificate's, both in hex; unix seconds."""

    cluster: str
    worker: WorkerName | None
    key: str
    serial: str
    expires_at: float


def master_uri(cluster: str) -> str:
    return f"{SCHEME}{cluster}/{MASTER}"


def worker_uri(cluster: str, worker: WorkerName) -> str:
    return f"{SCHEME}{cluster}/{WORKER}/{worker}"


def parse_uri(uri: str) -> tuple[str, WorkerName | None]:
    """Cluster, and the worker or None for the master. Raise Denied for anything else."""
    cluster, _, who = uri.removeprefix(SCHEME).partition("/")
    kind, _, name = who.partition("/")
    is_ours = uri.startswith(SCHEME) and cluster != ""
    if is_ours and who == MASTER:
        return cluster, None
    if is_ours and kind == WORKER:
        try:
            return cluster, check_name("worker", name)
        except Invalid:
            pass  # a name that no worker can have: as below
    raise Denied(f"a certificate for {uri[:120]!r}, which is nobody in a cluster of corps")

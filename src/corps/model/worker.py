"""A worker as the master knows it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from corps.model.name import WorkerName


class WorkerState(StrEnum):
    """ready: usable. suspect: a beat or its connection is missing, no new work. lost: unusable."""

    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is: `machine` and `kernel` as uname(2) says; `libc`: `glibc 2.36`, `musl`.

    `runs_as`: the one user that things can run as there, by name and by number; none: any.
    """

    machine: str = ""
    kernel: str = ""
    libc: str = ""
    runs_as: tuple[str, ...] = ()


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker.

    `state_id` names its state directory (made once, at random), `boot_id` the boot of its machine:
    together they tell whether what the worker does not list can still be running. `incarnation`
    counts the starts of its daemon, `process_id` names the last one; `reason` is why it is in its
    state; `has_heard_more` than this master, which was set back, could tell it.
    """

    name: WorkerName
    state_id: str
    boot_id: str
    state: WorkerState
    address: str
    labels: dict[str, str]
    cpu_count: int
    memory_bytes: int
    version: str
    joined_at: float
    state_since: float
    incarnation: int = 0
    process_id: str = ""
    reason: str = ""
    has_heard_more: bool = False
    facts: Facts = Facts()

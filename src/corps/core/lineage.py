"""Who says hello: the worker that is known, its successor, or somebody whose state was set back.

    the same process, connected again        the next incarnation of its state: its successor
    another process that is neither, or a copy of the directory: what it does not list may have run

A master that is an older copy of itself is known by its workers, who have heard more than it says.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from corps.core.believe import COUNT_MAX
from corps.core.cluster import Cluster
from corps.core.records import Life, Meta
from corps.errors import Conflict, Invalid
from corps.model.name import check_name
from corps.model.selector import ALL, check_label
from corps.model.worker import Worker
from corps.wire.worker import Hello

LABELS_MAX = 64
FACT_MAX = 200
LIVES_KEPT = 100
NUMBER_MAX = 1 << 53  # epochs, events and incarnations: far more than there will ever be


class Doubt(StrEnum):
    """Why an instance that its worker does not list may have run all the same; a kind of event."""

    REBOOTED = "rebooted"
    REPLACED = "replaced"
    CLONED = "cloned"
    SET_BACK = "set-back"
    MASTER_SET_BACK = "master-set-back"


_REASONS = {
    Doubt.REBOOTED: "the machine of {} was rebooted",
    Doubt.REPLACED: "the state directory of {} is another one now",
    Doubt.CLONED: "the state directory of {} was cloned, and its other copy is gone",
    Doubt.SET_BACK: "{} has no record of it any more: its state was set back",
    Doubt.MASTER_SET_BACK: "this master was set back to an older copy, and {} had heard more",
}


def reason(doubt: Doubt, worker: str) -> str:
    """In words, for the death of such an instance."""
    return _REASONS[doubt].format(worker)


def doubt(known: Worker | None, hello: Hello, *, is_cloned: bool) -> Doubt | None:
    """What makes one doubt that the worker knows of all it was ever told to start."""
    if known is None:
        return None
    if is_cloned and known.process_id != hello.process_id:
        return Doubt.CLONED
    if known.state_id != hello.state_id:
        return Doubt.REPLACED  # in another boot too: it may be of another machine
    if known.has_heard_more:
        return Doubt.MASTER_SET_BACK
    if known.process_id == hello.process_id and known.boot_id == hello.boot_id:
        return None
    is_successor = hello.incarnation > known.incarnation or not hello.process_id
    if not is_successor or hello.is_copy:
        return Doubt.SET_BACK
    return Doubt.REBOOTED if known.boot_id != hello.boot_id else None


def begin_life(cluster: Cluster, id: str, epoch: int) -> Meta:
    """The cluster as it is with one more life, or one more epoch of a life, of its master."""
    life = Life(epoch=epoch, id=id, began_seq=cluster.next_seq - 1)
    lives = (*cluster.meta.lives, life)[-LIVES_KEPT:]
    return msgspec.structs.replace(cluster.meta, epoch=epoch, lives=lives)


def is_ahead(hello: Hello, cluster: Cluster) -> bool:
    """It has heard more of this cluster's master than this master has ever said.

    An older copy may count as far: so each life has a name, and what was last said in it.
    """
    lives = cluster.meta.lives
    if hello.cluster != cluster.meta.cluster or not hello.life:
        return False
    heard = next((life for life in lives if life.epoch == hello.epoch), None)
    if heard is None:
        return hello.epoch > lives[0].epoch  # else it is too long ago to be known
    if heard.id != hello.life:
        return True
    later = [life for life in lives if life.epoch > heard.epoch and life.id != heard.id]
    said_seq = later[0].began_seq if later else cluster.next_seq - 1
    return hello.heard_seq > said_seq


def check_not_ahead(hello: Hello, cluster: Cluster) -> None:
    """Raise Conflict when this master is an older copy of the one that the worker knows."""
    if is_ahead(hello, cluster):
        raise Conflict(
            f"this master was set back to an older copy of its state: worker {hello.name!r} has "
            f"heard of event {hello.heard_seq} in epoch {hello.epoch}, of which nothing is known "
            "here: put the newest state.db back, or start the master with --accept-rollback"
        )


def check_facts(hello: Hello) -> None:
    """Raise Invalid for what no honest worker says of itself."""
    check_name("worker", hello.name)
    if hello.name == ALL:
        raise Invalid(f"a worker cannot be named {ALL!r}, which means every worker", field="name")
    if len(hello.labels) > LABELS_MAX:
        raise Invalid(f"{len(hello.labels)} labels: at most {LABELS_MAX}", field="labels")
    for key, value in hello.labels.items():
        check_label(f"{key}={value}")
    if not hello.state_id or not hello.boot_id:
        raise Invalid("hello without state_id or boot_id", field="state_id")
    texts = (hello.state_id, hello.boot_id, hello.process_id, hello.life, hello.version)
    if max(map(len, (*texts, *msgspec.structs.astuple(hello.facts)))) > FACT_MAX:
        raise Invalid(f"an id, version or fact over {FACT_MAX} characters", field="hello")
    if not (0 <= hello.cpu_count < COUNT_MAX and 0 <= hello.memory_bytes < COUNT_MAX):
        raise Invalid("a number of processors or bytes that cannot be", field="hello")
    for number in (hello.incarnation, hello.epoch, hello.heard_seq):
        if not 0 <= number < NUMBER_MAX:
            raise Invalid(f"a count of {number}, which cannot be", field="hello")

"""What somebody must be, and show, for each message that it may send: the whole table.

The threads that serve blobs ask it for each request; of control connections the core holds every
message to it (core/admission.py). A message without a line here is found at the start. Joining is
beside it (wire/join.py): by the proof of a token, or by a certificate that is to be renewed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import get_args

from corps.wire import bulk, swarm, worker
from corps.wire.secret import WantSecrets


class Need(Enum):
    """`worker` is always one whose certificate holds (core/roll.py). Without a certificate, from
    this machine and of the master's own user: as a worker to which all is assigned."""

    NAMED = auto()  # the worker that it names
    SELF = auto()  # a worker; what it says counts for what is bound to it, and for nothing else
    ASSIGNED = auto()  # a worker that should have the artifact
    KEY = auto()  # a worker with the key of the artifact, which the master gives to those above
    NOBODY = auto()  # not on this connection


CONTROL: dict[type[worker.Message], Need] = {
    worker.Hello: Need.NAMED,
    worker.Inventory: Need.SELF,
    worker.Heartbeat: Need.SELF,
    worker.Changed: Need.SELF,
    worker.Installed: Need.SELF,
    worker.InstallFailed: Need.SELF,
    worker.Progress: Need.SELF,
    worker.Uninstalled: Need.SELF,
    worker.Removed: Need.SELF,
    worker.SignalDone: Need.SELF,
    worker.Sampled: Need.SELF,
    worker.SeriesRead: Need.SELF,
    worker.LogRead: Need.SELF,
    worker.OutputRead: Need.SELF,
    worker.Noted: Need.SELF,
    worker.Probed: Need.SELF,
    worker.Verified: Need.SELF,
    worker.Trusting: Need.SELF,
    WantSecrets: Need.SELF,
}
BULK: dict[type[worker.Message], Need] = {
    bulk.Want: Need.ASSIGNED,
    bulk.Pieces: Need.ASSIGNED,
    bulk.Missing: Need.NOBODY,
    bulk.Claim: Need.NOBODY,
    bulk.Room: Need.NOBODY,
    bulk.Partial: Need.NOBODY,
    bulk.Sending: Need.NOBODY,
}
SWARM_OF_MASTER: dict[type[worker.Message], Need] = {
    swarm.Seek: Need.ASSIGNED,
    swarm.TakeAny: Need.ASSIGNED,
    swarm.Look: Need.NOBODY,
    swarm.Take: Need.NOBODY,
}
SWARM_OF_WORKER: dict[type[worker.Message], Need] = {
    swarm.Seek: Need.NOBODY,
    swarm.TakeAny: Need.NOBODY,
    swarm.Look: Need.KEY,
    swarm.Take: Need.KEY,
}

for _table, _union in (
    (CONTROL, worker.FromWorker),
    (BULK, bulk.BulkRequest),
    (SWARM_OF_MASTER, swarm.SwarmRequest),
    (SWARM_OF_WORKER, swarm.SwarmRequest),
):
    assert set(_table) == set(get_args(_union)), "a message without a line in the table of methods"

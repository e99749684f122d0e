"""What goes into the two cores and what comes out: events in, effects out."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from corps.core.records import Record
from corps.model.artifact import Transfer
from corps.model.command import AnyCommand, AnyResult
from corps.model.identity import Identity
from corps.model.instance import Evidence, Launchable
from corps.model.name import AttemptKey, CommandId, Digest, WorkerName
from corps.model.secret import Revealed, Secret
from corps.model.series import Measured
from corps.model.trail import Deed
from corps.wire.keeper import FromKeeper, ToKeeper
from corps.wire.output import Note
from corps.wire.worker import (
    FromWorker,
    Installed,
    InstallFailed,
    Removed,
    ToWorker,
    Uninstalled,
)


class Event(msgspec.Struct, frozen=True):
    """Base of what a core is told."""


class Effect(msgspec.Struct, frozen=True):
    """Base of what a core wants done."""


class Tick(Event, frozen=True):
    """Time passed."""


# ---- master


class Opened(Event, frozen=True):
    """A worker's connection was accepted; it has said nothing yet. `identity`: of its certificate;
    None: a process of this machine, of the master's own user or root, as the kernel says."""

    session: int
    address: str
    identity: Identity | None = None


class Received(Event, frozen=True):
    """Messages of one read, in order."""

    session: int
    messages: tuple[FromWorker, ...]


class Closed(Event, frozen=True):
    session: int


class ArtifactFacts(msgspec.Struct, frozen=True):
    """What the driver read from the manifest of a Copy: its blobs are all in the store."""

    size_bytes: int
    file_count: int


class Commanded(Event, frozen=True):
    """An operator's command; `body` is the digest of its bytes, `source` where it came from."""

    id: CommandId
    body: str
    command: AnyCommand
    by: str
    facts: ArtifactFacts | None = None
    source: str = ""


class Witnessed(Event, frozen=True):
    """Something for the audit trail that is no command: a denial, a failed join, a shutdown."""

    deed: Deed


class Enroll(Event, frozen=True):
    """Somebody proved to have the secret of `token`, and the certificate of `serial` is signed for
    its `key`: it is handed over if the answer, a Reply, is Ruled."""

    id: CommandId
    token: str
    worker: WorkerName
    key: str
    serial: str
    expires_at: float
    address: str


class Renew(Event, frozen=True):
    """A worker wants a new certificate by its present one, `identity`; else as Enroll."""

    id: CommandId
    identity: Identity
    serial: str
    expires_at: float
    address: str


class Rooted(Event, frozen=True):
    """The CAs that are trusted from now on: in PEM, and by their pins; the first signs."""

    authorities: bytes
    pins: tuple[str, ...]


MasterEvent: TypeAlias = (
    Tick | Opened | Received | Closed | Commanded | Witnessed | Enroll | Renew | Rooted
)


class Save(Effect, frozen=True):
    """Make durable, before any later effect is carried out."""

    record: Record


class Drop(Effect, frozen=True):
    """Delete the record, before any later effect is carried out."""

    record: Record


class Send(Effect, frozen=True):
    session: int
    message: ToWorker


class Close(Effect, frozen=True):
    session: int
    reason: str


class Reply(Effect, frozen=True):
    """The answer to a command, for everyone who sent it with this body."""

    id: CommandId
    result: AnyResult
    body: str


class Reveal(Effect, frozen=True):
    """Open these and send them to the worker of an attempt, as `wire.secret.Secrets`."""

    session: int
    key: AttemptKey
    secrets: tuple[Secret, ...]


MasterEffect: TypeAlias = Save | Drop | Send | Close | Reply | Reveal


# ---- worker


class Linked(Event, frozen=True):
    """The connection to the master is up."""


class Unlinked(Event, frozen=True):
    """The connection to the master is down: nothing that came by it is told after this."""


class MasterSaid(Event, frozen=True):
    messages: tuple[ToWorker, ...]


class KeeperSaid(Event, frozen=True):
    """Messages of one read, in order; `reasons` says in words why an attempt did not start,
    `evidence` what was seen when its death was heard of, `measured` what it used over its life."""

    messages: tuple[FromKeeper, ...]
    reasons: tuple[tuple[AttemptKey, str], ...] = ()
    evidence: tuple[tuple[AttemptKey, Evidence], ...] = ()
    measured: tuple[tuple[AttemptKey, Measured], ...] = ()


class KeeperGone(Event, frozen=True):
    """The keeper's connection is down; a Listing follows when it is up again.

    Nothing that was meant for the old connection is sent on the new one.
    """


class Performed(Event, frozen=True):
    """An effect came to its end."""

    outcome: Installed | InstallFailed | Uninstalled | Removed
    evidence: Evidence | None = None  # of what could not start for it


class SpawnBlocked(Event, frozen=True):
    """The worker could not even ask its keeper: `stage` failed with `errno`."""

    key: AttemptKey
    stage: str
    errno: int
    message: str
    evidence: Evidence | None = None


class Unverified(Event, frozen=True):
    """The files of an attempt that is to be spawned must be verified first: fetch them again."""

    key: AttemptKey


class Peaks(Event, frozen=True):
    """VmHWM in bytes, sampled from /proc, of living attempts."""

    peaks: tuple[tuple[AttemptKey, int], ...]


class Noticed(Event, frozen=True):
    """The driver saw something that operators should hear of."""

    notes: tuple[Note, ...]


WorkerEvent: TypeAlias = (
    Tick
    | Linked
    | Unlinked
    | MasterSaid
    | KeeperSaid
    | KeeperGone
    | Performed
    | SpawnBlocked
    | Unverified
    | Peaks
    | Noticed
)


class Tell(Effect, frozen=True):
    """Send to the master."""

    message: FromWorker


class Instruct(Effect, frozen=True):
    """Send to the keeper."""

    message: ToKeeper


class Spawn(Effect, frozen=True):
    """Make the directories of an attempt and have the keeper start it; `is_verified`: its files
    were, a moment ago. Else it may come back as Unverified. `secrets`: all that it names."""

    key: AttemptKey
    launch: Launchable
    is_verified: bool = False
    secrets: tuple[Revealed, ...] = ()


class Fetch(Effect, frozen=True):
    """Install an artifact and verify it; comes back as Performed."""

    digest: Digest
    transfer: Transfer = Transfer()


class RemoveArtifact(Effect, frozen=True):
    """Uninstall an artifact; comes back as Performed."""

    digest: Digest


class RemoveFiles(Effect, frozen=True):
    """Delete logs and working directories; comes back as Performed."""

    keys: tuple[AttemptKey, ...]


class Adopt(Effect, frozen=True):
    """Remember, durably, the cluster of this worker, and the newest that it heard of its master.

    `is_copy`: no master has noted yet that the directory is a copy.
    """

    cluster: str
    epoch: int = 0
    life: str = ""
    heard_seq: int = 0
    is_copy: bool = False


class Leave(Effect, frozen=True):
    """End the daemon: told to, or it must not go on. `code` None: as told."""

    code: str | None
    message: str


WorkerEffect: TypeAlias = (
    Tell | Instruct | Spawn | Fetch | RemoveArtifact | RemoveFiles | Adopt | Leave
)

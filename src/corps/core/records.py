"""What the master stores beside its nouns: commands, events, counters, and itself."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from corps.model.artifact import Artifact
from corps.model.certificate import Certificate
from corps.model.command import AnyCommand, AnyResult
from corps.model.instance import Instance
from corps.model.name import CommandId, InstanceId, WorkerName
from corps.model.secret import Secret
from corps.model.trail import TrailEntry, TrailHead, TrailMark, TrailRecord
from corps.model.trust import JoinToken, Member, User, UserToken
from corps.model.worker import Worker


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a master: its epoch, a name of its own, and the last event before it."""

    epoch: int
    id: str
    began_seq: int


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Of the CA that has this pin, until it is trusted no more."""

    pin: str
    began_at: float
    by: str


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster itself. `epoch` counts the starts of its master, `lives` has the last ones."""

    cluster: str
    epoch: int
    lives: tuple[Life, ...] = ()
    rotation: Rotation | None = None


class App(msgspec.Struct, frozen=True, kw_only=True):
    """What an app's instances are counted by: a number is never used again."""

    name: str
    next_number: int


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted command: its targets are fixed, its result comes once."""

    id: CommandId
    body: str
    command: AnyCommand
    by: str
    at: float
    source: str = ""
    targets: tuple[InstanceId | WorkerName, ...] = ()
    done_at: float | None = None
    result: AnyResult | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, in order of `seq`."""

    seq: int
    at: float
    kind: str
    subject: str
    message: str
    worker: WorkerName | None = None


TRAIL, TRAIL_HEAD, TRAIL_MARKS = "trail", "trail_head", "trail_marks"
TrustRecord: TypeAlias = JoinToken | Member | User | UserToken | Secret
Record: TypeAlias = (
    Meta
    | Worker
    | Artifact
    | App
    | Instance
    | Certificate
    | CommandRecord
    | Event
    | TrustRecord
    | TrailRecord
)


def artifact_key(artifact: Artifact) -> str:
    return f"{artifact.name}@{artifact.digest}"


def record_key(record: Record) -> tuple[str, str]:
    """Table and primary key of a record."""
    match record:
        case Meta():
            return "meta", "cluster"
        case Worker() | Artifact() | App():
            return _noun_key(record)
        case Instance():
            return "instances", record.id
        case Certificate():
            return "certificates", record.key
        case CommandRecord():
            return "commands", record.id
        case Event():
            return "events", f"{record.seq:016d}"
        case JoinToken() | Member() | User() | UserToken() | Secret():
            return _trust_key(record)
        case TrailEntry() | TrailHead() | TrailMark():
            return _trail_key(record)


def _noun_key(record: Worker | Artifact | App) -> tuple[str, str]:
    match record:
        case Worker():
            return "workers", record.name
        case Artifact():
            return "artifacts", artifact_key(record)
        case App():
            return "apps", record.name


def _trust_key(record: TrustRecord) -> tuple[str, str]:
    match record:
        case JoinToken():
            return "join_tokens", record.id
        case Member():
            return "members", record.worker
        case User():
            return "users", record.name
        case UserToken():
            return "user_tokens", record.id
        case Secret():
            return "secrets", record.name


def _trail_key(record: TrailRecord) -> tuple[str, str]:
    match record:
        case TrailEntry():
            return TRAIL, trail_key(record.seq)
        case TrailHead():
            return TRAIL_HEAD, "head"
        case TrailMark():
            return TRAIL_MARKS, trail_key(record.seq)


def trail_key(seq: int) -> str:
    return f"{seq:016d}"


def record_age(record: Record) -> tuple[float, int]:
    """Sorts the records of one table oldest first, in the order in which history is dropped."""
    match record:
        case Event():
            return float(record.seq), 0
        case TrailEntry() | TrailMark():
            return float(record.seq), 0
        case CommandRecord():
            return record.at, 0
        case Instance():
            return record.timings.placed_at, record.number
        case Certificate():
            return record.ended_at, record.attempt
        case Artifact():
            return record.created_at, 0
        case Worker() | Member():
            return record.joined_at, 0
        case JoinToken() | User() | UserToken() | Secret():
            return record.created_at, 0
        case Meta() | App() | TrailHead():
            return 0.0, 0


TABLES: dict[str, type[Record]] = {
    "meta": Meta,
    "workers": Worker,
    "artifacts": Artifact,
    "apps": App,
    "instances": Instance,
    "certificates": Certificate,
    "commands": CommandRecord,
    "events": Event,
    "join_tokens": JoinToken,
    "members": Member,
    "users": User,
    "user_tokens": UserToken,
    "secrets": Secret,
    TRAIL: TrailEntry,
    TRAIL_HEAD: TrailHead,
    TRAIL_MARKS: TrailMark,
}

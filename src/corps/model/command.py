"""What operators ask: the tagged union behind CLI, shell, HTTP and audit, and the results.

A command carries an id made by the client; the same id with the same body has one effect and one
answer, however often it is sent.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from corps.model.artifact import Transfer
from corps.model.name import CommandId, Digest
from corps.model.secret import AnySecret
from corps.model.signature import Signature
from corps.model.terms import Restart, Terms
from corps.model.trust import AnyTrust
from corps.model.view import CopyView, DeleteView, InstanceView

COUNT_MAX = 10_000
TARGETS_MAX = 10_000
ARGS_MAX = 10_000
ENV_MAX = 10_000
GRACE_MAX_S = 86_400.0
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=365 * 86_400)]


class Command(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of what an operator may ask that changes something."""


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator had to send to the master for a copy; for the audit."""

    bytes_sent: Count
    bytes_total: Count
    seconds: Seconds


class Copy(Command, frozen=True, kw_only=True):
    """Put the artifact whose manifest and blobs the master already has on the workers of `to`.

    `tag`: and give it that, which no other version of the name may have. `is_repair`: it was there,
    and has drifted: it does not become the newest version by this.
    """

    name: str
    digest: Digest
    to: str = "all"
    transfer: Transfer = Transfer()
    uploaded: Uploaded | None = None
    tag: str | None = None
    is_repair: bool = False


class Delete(Command, frozen=True, kw_only=True):
    """Remove an artifact (`NAME`, `NAME@DIGEST`, `NAME:TAG`) from the workers of `workers`;
    `as_garbage`: only if nothing leases it and no tag names it."""

    artifact: str
    workers: str = "all"
    as_garbage: bool = False


class Launch(Command, frozen=True, kw_only=True):
    """Start instances of an artifact.

    `count` None means: one on each worker of `on`, or one in all when `on` is None too.
    """

    artifact: str
    on: str | None = None
    count: int | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    terms: Terms = Terms()
    restart: Restart = Restart.NEVER
    failures_max: int | None = None  # in a row, then on-failure gives up


class Stop(Command, frozen=True, kw_only=True):
    """SIGINT, then SIGKILL when `grace_s` is over. Done when every target is dead or unknown."""

    targets: tuple[str, ...]
    grace_s: float = 10.0


class Kill(Command, frozen=True, kw_only=True):
    """SIGKILL now. Done when every target is dead or unknown."""

    targets: tuple[str, ...]


class Signal(Command, frozen=True, kw_only=True):
    """Any signal, by number. Done when delivered."""

    targets: tuple[str, ...]
    signal: int


class Remove(Command, frozen=True, kw_only=True):
    """Forget dead instances and their logs."""

    targets: tuple[str, ...]


class Sign(Command, frozen=True, kw_only=True):
    """Keep with a version that the master has (`NAME@DIGEST`) who vouches for it."""

    signature: Signature


class Tag(Command, frozen=True, kw_only=True):
    """Give a version a tag, which no other version of the name may have unless `moves`; without
    one the tag in `artifact` (`NAME:TAG`) is taken away."""

    artifact: str
    tag: str | None = None
    moves: bool = False


AnyCommand: TypeAlias = (
    Copy | Delete | Launch | Stop | Kill | Signal | Remove | Sign | Tag | AnyTrust | AnySecret
)


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A command on its way: `POST /v1/commands`."""

    id: CommandId
    command: AnyCommand


class Result(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of what a command answers."""


class Instances(Result, frozen=True, kw_only=True):
    """Of launch, stop, kill, signal: the instances as they were when the command was done."""

    instances: tuple[InstanceView, ...]


class Copied(Result, frozen=True, kw_only=True):
    workers: tuple[CopyView, ...]


class Deleted(Result, frozen=True, kw_only=True):
    workers: tuple[DeleteView, ...]


class Removed(Result, frozen=True, kw_only=True):
    instances: tuple[str, ...]


class Signed(Result, frozen=True, kw_only=True):
    artifact: str


class Tagged(Result, frozen=True, kw_only=True):
    artifact: str
    tag: str | None


class Ruled(Result, frozen=True, kw_only=True):
    """It holds from now on. `subject`: the token, worker or person it is about."""

    subject: str


class Failure(Result, frozen=True, kw_only=True):
    """The command was refused, or an error anywhere: `errors.error_of` makes the exception."""

    code: str
    message: str
    details: dict[str, str | int] = {}


class Accepted(Result, frozen=True, kw_only=True):
    """Durable and under way, not done yet: send the same command again to go on waiting."""

    id: CommandId


AnyResult: TypeAlias = (
    Instances | Copied | Deleted | Removed | Signed | Tagged | Ruled | Failure | Accepted
)

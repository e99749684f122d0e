"""Master <-> worker: the messages of the control connection, and of the bulk connection.

New fields have defaults; names and tags are never re-used; unknown fields are ignored; an unknown
tag closes the connection. `Hello.protocol` is the only version number.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from corps.model.artifact import Transfer
from corps.model.instance import Death, Delivered, Evidence, InstanceState, Launchable, Usage
from corps.model.name import AttemptKey, Digest
from corps.model.series import Measured, Point
from corps.model.worker import Facts
from corps.wire.drift import Verified, Verify
from corps.wire.message import Message
from corps.wire.output import LogRead, Note, OutputRead, ReadLog, ReadOutput
from corps.wire.probe import Probe, Probed
from corps.wire.secret import Secrets, WantSecrets

INVENTORY_BATCH = 500


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All a worker knows of one attempt. Sent again until the master has said Forget."""

    key: AttemptKey
    state: InstanceState
    digest: Digest
    pid: int | None = None
    received_at: float | None = None
    fetched_at: float | None = None
    forked_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    delivered: tuple[Delivered, ...] = ()
    death: Death | None = None
    usage: Usage | None = None
    enforced: dict[str, str] = {}
    evidence: Evidence | None = None
    fetched_bytes: int | None = None
    measured: Measured | None = None


# ---- worker -> master


class Hello(Message, frozen=True, kw_only=True):
    """First message. Its Inventory follows; only then is the worker usable.

    `incarnation` counts the starts on its state directory, `process_id` is made anew at each;
    `is_copy`: the directory is a copy, and no master has noted that yet. `epoch`,
    `life` and `heard_seq` are the last that it heard of a master; `now` is its clock.
    """

    protocol: int
    name: str
    state_id: str
    boot_id: str
    cluster: str | None
    labels: dict[str, str]
    cpu_count: int
    memory_bytes: int
    version: str
    incarnation: int = 0
    process_id: str = ""
    is_copy: bool = False
    epoch: int = 0
    life: str = ""
    heard_seq: int = 0
    now: float | None = None
    facts: Facts = Facts()


class Inventory(Message, frozen=True, kw_only=True):
    """Everything the worker still has, in parts of INVENTORY_BATCH; the last part says so."""

    reports: tuple[Report, ...]
    artifacts: tuple[Digest, ...]
    is_last: bool


class Heartbeat(Message, frozen=True, kw_only=True):
    """Sign of life; any other message is one as well."""

    seq: int


class Changed(Message, frozen=True, kw_only=True):
    """Attempts that changed."""

    reports: tuple[Report, ...]


class Installed(Message, frozen=True, kw_only=True):
    """The artifact is whole and verified on this worker. `*_sent`: what had to travel, on the wire;
    `bytes_from_peers` of it came from other workers."""

    digest: Digest
    bytes_sent: int
    bytes_total: int
    files_sent: int
    files_total: int
    seconds: float
    bytes_from_peers: int = 0


class InstallFailed(Message, frozen=True, kw_only=True):
    digest: Digest
    message: str


class Progress(Message, frozen=True, kw_only=True):
    """How far an install is; for eyes only. `bytes_done` of `bytes_total` are there, also what was
    there before; `bytes_sent` travelled for them."""

    digest: Digest
    bytes_sent: int
    bytes_total: int
    bytes_done: int = 0
    bytes_from_peers: int = 0


class Uninstalled(Message, frozen=True, kw_only=True):
    """Answer to Uninstall; `in_use` when an attempt still needs it and nothing was removed."""

    digest: Digest
    in_use: bool = False


class Removed(Message, frozen=True, kw_only=True):
    """The files of these attempts are gone; those of `alive` stay: something runs there."""

    keys: tuple[AttemptKey, ...]
    alive: tuple[AttemptKey, ...] = ()


class SignalDone(Message, frozen=True, kw_only=True):
    """Outcome of SendSignal: errno 0, or ESRCH when it had already ended."""

    key: AttemptKey
    command: str
    errno: int


class LiveUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What /proc says of one living process now."""

    key: AttemptKey
    os_state: str
    usage: Usage
    measured: Measured | None = None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all children the keeper has reaped (wait4): CPU added, resident set the maximum."""

    children_dead: int = 0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    max_rss_bytes: int = 0


class Sampled(Message, frozen=True, kw_only=True):
    """Answer to Sample; in several parts when there are many."""

    ask: int
    live: tuple[LiveUsage, ...]
    totals: Totals
    is_last: bool = True


class RunSeries(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one attempt over time, from its start to the last sample."""

    key: AttemptKey
    points: tuple[Point, ...]


class SeriesRead(Message, frozen=True, kw_only=True):
    """Answer to ReadSeries; in several parts when there is much."""

    ask: int
    series: tuple[RunSeries, ...]
    is_last: bool = True


class Noted(Message, frozen=True, kw_only=True):
    """What operators should hear as events."""

    notes: tuple[Note, ...]


class Trusting(Message, frozen=True, kw_only=True):
    """By their pins: the CAs that the worker trusts, and the one that issued its certificate."""

    pins: tuple[str, ...]
    issuer: str


FromWorker: TypeAlias = (
    Hello
    | Inventory
    | Heartbeat
    | Changed
    | Installed
    | InstallFailed
    | Progress
    | Uninstalled
    | Removed
    | SignalDone
    | Sampled
    | SeriesRead
    | LogRead
    | OutputRead
    | Noted
    | Probed
    | Verified
    | Trusting
    | WantSecrets
)


# What answers a question of the master; its `ask` says which.
Answer: TypeAlias = Sampled | SeriesRead | LogRead | OutputRead | Probed | Verified


# ---- master -> worker


class Welcome(Message, frozen=True, kw_only=True):
    """The worker belongs to this cluster.

    `epoch` counts the starts of the master, `life` names this one, `seq` counts events.
    """

    cluster: str
    epoch: int
    heartbeat_s: float
    life: str = ""
    seq: int = 0


class Refused(Message, frozen=True, kw_only=True):
    """The worker may not join, and why. The connection ends."""

    code: str
    message: str


class Expired(Message, frozen=True, kw_only=True):
    """Your certificate has expired: get another one, then come again. The connection ends."""

    message: str


class Trust(Message, frozen=True, kw_only=True):
    """These CAs from now on, in PEM. Who has a certificate of another than the first gets a new one
    within `spread_s`. Answer: Trusting."""

    authorities: bytes
    spread_s: float = 0.0


class Rejoin(Message, frozen=True, kw_only=True):
    """You were lost: say hello again, with all you have."""


class Told(Message, frozen=True, kw_only=True):
    """A sentence for the worker's log. `is_noted`: that its directory is a copy is known here."""

    text: str
    is_noted: bool = False


class Start(Message, frozen=True, kw_only=True):
    """Launch this attempt, once. Repeating it is harmless: `key` names it for ever."""

    key: AttemptKey
    launch: Launchable


class End(Message, frozen=True, kw_only=True):
    """Bring an attempt to its end: `signal`, then SIGKILL after `grace_s` (None: nothing more)."""

    key: AttemptKey
    signal: int
    grace_s: float | None


class SendSignal(Message, frozen=True, kw_only=True):
    """Deliver one signal; it ends nothing by intention."""

    key: AttemptKey
    signal: int
    command: str


class Forget(Message, frozen=True, kw_only=True):
    """The deaths of these attempts are durable at the master: no need to report them again.

    `seq` is the master's last event: one that has fewer is an older copy, and may not know them.
    """

    keys: tuple[AttemptKey, ...]
    seq: int = 0


class Remove(Message, frozen=True, kw_only=True):
    """Delete the logs and the working directory of these attempts."""

    keys: tuple[AttemptKey, ...]


class Install(Message, frozen=True, kw_only=True):
    digest: Digest
    transfer: Transfer = Transfer()


class Uninstall(Message, frozen=True, kw_only=True):
    digest: Digest


class Sample(Message, frozen=True, kw_only=True):
    """Ask for live usage; None means of every attempt. Peaks are read anew only if wanted, and
    whole trees measured anew, unless that was done a moment ago."""

    ask: int
    keys: tuple[AttemptKey, ...] | None = None
    with_peaks: bool = True
    with_trees: bool = False


class ReadSeries(Message, frozen=True, kw_only=True):
    """Ask for the usage over time of attempts, dead ones too, each in at most `points_max`."""

    ask: int
    keys: tuple[AttemptKey, ...]
    points_max: int


class Shutdown(Message, frozen=True, kw_only=True):
    """End the keeper, which must have no children left, and the worker daemon."""


ToWorker: TypeAlias = (
    Welcome
    | Refused
    | Expired
    | Trust
    | Rejoin
    | Told
    | Start
    | End
    | SendSignal
    | Forget
    | Remove
    | Install
    | Uninstall
    | Sample
    | ReadSeries
    | ReadLog
    | ReadOutput
    | Probe
    | Verify
    | Secrets
    | Shutdown
)

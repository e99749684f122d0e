"""Worker <-> keeper: length-prefixed JSON on a Unix stream socket.

The one description of these messages. The keeper itself imports only the standard library, so it
builds and reads plain objects; a test holds it against these structs. A frame is a 4-byte
big-endian length and then one JSON object. Each `spawned`, and each attempt of a `listing` with
`has_pidfd`, is followed in the stream's ancillary data (SCM_RIGHTS) by one pidfd, in order.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from corps.model.name import AttemptKey
from corps.wire.worker import Totals

FRAME_MAX_BYTES = 4 << 20


class KeeperMessage(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of what worker and keeper say."""


# ---- worker -> keeper


class GivenSecret(msgspec.Struct, frozen=True, kw_only=True):
    """In a file of this name, or as an open descriptor with this number; `variable` tells the path
    of the file, or has the value itself."""

    value: bytes
    file: str | None = None
    fd: int | None = None
    variable: str | None = None


class Spawn(KeeperMessage, frozen=True, kw_only=True):
    """Fork, journal, exec. A key the keeper knows is answered from the journal, never run again.

    `path` is executed with `argv`; `env` is the whole environment; `note` is kept and given back.
    `rlimits` are soft and hard limits by name of setrlimit(2) in lower case, -1 for none; a `uid`
    comes with its `gid` and `groups`. `memory_bytes`, `cpus` and `pids` hold for the whole tree:
    what no cgroup can hold is refused, unless it is in `watched`, when the worker itself sees to
    it. `keeps_children`: descendants that outlive the leader are left alone. `work`: a directory
    of the worker's that is to be its user's, where only the keeper may make it so.
    `new_privileges`: setuid programs give it rights, as no_new_privs would forbid, prctl(2).
    """

    key: AttemptKey
    path: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    stdout: str
    stderr: str
    note: str = ""
    rlimits: dict[str, int] = {}
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    nice: int | None = None
    umask: int | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    watched: tuple[str, ...] = ()
    keeps_children: bool = False
    secrets: tuple[GivenSecret, ...] = ()
    work: str = ""
    new_privileges: bool = False


class SendSignal(KeeperMessage, frozen=True, kw_only=True, tag="signal"):
    """Send by pidfd; before exec all but SIGKILL wait for the program. Answer: Signaled.

    `note` is kept with a signal that was delivered: why the worker itself has sent it.
    """

    key: AttemptKey
    signal: int
    note: str = ""


class Forget(KeeperMessage, frozen=True, kw_only=True):
    """Drop what is known of these dead attempts. A living one is left alone."""

    keys: tuple[AttemptKey, ...]


class Clear(KeeperMessage, frozen=True, kw_only=True):
    """Delete what is in a directory, as the user it belongs to. Answer: Cleared."""

    directory: str


class ListAll(KeeperMessage, frozen=True, kw_only=True, tag="list"):
    """Ask for everything. Answer: Listing, in several parts when there is much."""


class Quit(KeeperMessage, frozen=True, kw_only=True):
    """End, unless a child lives. Answer: Refused then; else the connection closes."""


ToKeeper: TypeAlias = Spawn | SendSignal | Forget | Clear | ListAll | Quit


# ---- keeper -> worker


class KeptUsage(msgspec.Struct, frozen=True, kw_only=True):
    """rusage of wait4(2); `max_rss_bytes` up to the image before exec is an upper bound only."""

    cpu_user_s: float
    cpu_system_s: float
    max_rss_bytes: int
    floor_bytes: int = 0


class KeptSignal(msgspec.Struct, frozen=True, kw_only=True):
    signal: int
    at: float
    note: str = ""


class KeptSurvivor(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    command: str


class KeptAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """All the keeper knows of one attempt.

    status: what waitpid(2) gave, None while it lives or when nobody saw it. `failed_stage` and
    `failed_errno`: it never reached its program. `lost`: it is gone and its status cannot be
    known; `executed` then says whether it had used its right to exec. `enforced`: each limit and
    what holds it; `tree`: by what its descendants are found, `cgroup` or `marker`; `lingering`: how
    many there were when the leader ended; `survivors`: those that could not be ended; `oom_kills`:
    of its cgroup; `limit_hits`: how often it met a limit; `watched`: the limits that the worker
    has to see to; `deadline_s`: it had not executed so long after its fork, and its keeper killed
    it; `sending`: a signal that was on its way when an earlier keeper died, sent or not.
    Stages: fork, journal, log, secrets, chdir, mark, execve; timeout, killed_before_exec and
    never_executed without an errno.
    """

    key: AttemptKey
    pid: int
    note: str
    forked_at: float
    is_live: bool
    executed: bool
    status: int | None = None
    failed_stage: str | None = None
    failed_errno: int | None = None
    lost: str | None = None
    ended_at: float | None = None
    usage: KeptUsage | None = None
    signals: tuple[KeptSignal, ...] = ()
    has_pidfd: bool = False
    sending: KeptSignal | None = None
    enforced: dict[str, str] = {}
    tree: str | None = None
    lingering: int | None = None
    survivors: tuple[KeptSurvivor, ...] = ()
    oom_kills: int | None = None
    deadline_s: float | None = None
    limit_hits: dict[str, int] = {}
    watched: dict[str, int] = {}


class Spawned(KeeperMessage, frozen=True, kw_only=True):
    """The child runs its program now."""

    key: AttemptKey
    pid: int
    forked_at: float
    executed_at: float
    tree: str | None = None
    enforced: dict[str, str] = {}
    watched: dict[str, int] = {}


class Stuck(KeeperMessage, frozen=True, kw_only=True):
    """It was sent SIGKILL and does not die: `survivors` names the leader and what is with it."""

    attempt: KeptAttempt


class Ended(KeeperMessage, frozen=True, kw_only=True):
    """An attempt is over; repeated in Listing until Forget."""

    attempt: KeptAttempt


class Signaled(KeeperMessage, frozen=True, kw_only=True):
    """errno 0: delivered to a living process. ESRCH: it had ended, or the key is unknown."""

    key: AttemptKey
    signal: int
    errno: int


class Listing(KeeperMessage, frozen=True, kw_only=True):
    """Everything known, in parts. `now`: what the keeper's clock says; `gives_secrets`: it is new
    enough for that."""

    attempts: tuple[KeptAttempt, ...]
    totals: Totals
    keeper_pid: int
    is_last: bool
    now: float | None = None
    gives_secrets: bool = False


class Cleared(KeeperMessage, frozen=True, kw_only=True):
    """errno 0: nothing is in it any more."""

    directory: str
    errno: int


class TotalsNow(KeeperMessage, frozen=True, kw_only=True, tag="totals"):
    """Sent after each batch of deaths."""

    totals: Totals


class Refused(KeeperMessage, frozen=True, kw_only=True):
    """A request that could not be carried out, and why: nothing was done."""

    key: AttemptKey | None
    reason: str
    stage: str = "keeper"


FromKeeper: TypeAlias = Spawned | Stuck | Ended | Signaled | Listing | TotalsNow | Refused | Cleared

"""The master's HTTP API as Python calls. Synchronous, one connection, not for two threads at once.

A command carries an id, so it is sent again after a lost connection and still has one effect.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote

import msgspec

from corps.clock import Clock
from corps.config import load_settings
from corps.errors import CorpsError, Invalid, ProtocolError, TimedOut, error_of
from corps.model import access, output_view, upkeep, view
from corps.model.check import Check, CheckView
from corps.model.command import (
    Accepted,
    AnyCommand,
    AnyResult,
    Copied,
    Copy,
    Delete,
    Deleted,
    Failure,
    Instances,
    Kill,
    Launch,
    Remove,
    Removed,
    Signal,
    Stop,
    Submission,
)
from corps.model.name import CommandId
from corps.model.plan import PlanRequest, PlanView, ProgressView
from corps.model.secret import SecretView
from corps.model.trail import TRAIL_PAGE_MAX, TrailPage
from corps.model.trust import CaView, TokenView, UserView
from corps.net.endpoint import Server, endpoint_of
from corps.net.exchange import Answer, Connection, Lost, Patience, Query, Request

ANSWER_S = 30.0  # a master whose disk stalls is worth waiting for
WAIT_S = 30.0
READ_PATIENCE_S = 2.0
EVENTS_LIMIT = 1_000
VERIFY_S = 3_600.0
SERIES_S = 10.0  # the master waits so long for workers
CHECK_S = 10.0  # as above

T = TypeVar("T")
_RESULT: msgspec.json.Decoder[AnyResult] = msgspec.json.Decoder(AnyResult)


class LogSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Which bytes of which log. `attempt` None: the present one; `offset` < 0: from the end;
    `limit_bytes` None: as many as the master sends at once."""

    instance: str
    stream: str = "stdout"
    attempt: int | None = None
    offset: int = 0
    limit_bytes: int | None = None


class OutputSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Which output: of one stream or of both, from these offsets on, `since` (unix seconds), or
    so many bytes before the end. A line that has no end yet waits unless `partial`."""

    instance: str
    attempt: int | None = None
    stream: str | None = None
    stdout: int = 0
    stderr: int = 0
    since: float | None = None
    back_bytes: int | None = None
    limit_bytes: int | None = None
    partial: bool = False


class Client:
    """A master's API. Without an argument: the master that environment and config file name.

    `server` may be settings, `https://HOST:PORT` with a person's token, `unix:///path/of/api.sock`
    or that path itself. Connects on the first call; every call raises Unavailable within CONNECT_S
    when there is no master, and TimedOut when its answer takes `answer_s` longer than it was asked
    to wait.
    """

    def __init__(
        self,
        server: Server | None = None,
        *,
        token: str | None = None,
        answer_s: float = ANSWER_S,
        patience_s: float = 10.0,
    ) -> None:
        self.endpoint = endpoint_of(load_settings() if server is None else server, token)
        self.under_way: CommandId | None = None
        self._patience_s = patience_s
        self._connection = Connection(self.endpoint, answer_s)
        self._clock = Clock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def launch(self, command: Launch) -> tuple[view.InstanceView, ...]:
        """The instances as they are once each has a pid, or a death that says why not."""
        return self.submit(command, Instances).instances

    def stop(self, targets: Sequence[str], grace_s: float = 10.0) -> tuple[view.InstanceView, ...]:
        """SIGINT, then SIGKILL. Returns when each is dead, or unknown as its worker is lost."""
        return self.submit(Stop(targets=tuple(targets), grace_s=grace_s), Instances).instances

    def kill(self, targets: Sequence[str]) -> tuple[view.InstanceView, ...]:
        """SIGKILL. Returns when each is dead, or unknown as its worker is lost."""
        return self.submit(Kill(targets=tuple(targets)), Instances).instances

    def signal(self, targets: Sequence[str], signal: int) -> tuple[view.InstanceView, ...]:
        """Any signal, by number. Returns when it is delivered."""
        return self.submit(Signal(targets=tuple(targets), signal=signal), Instances).instances

    def remove(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Forget dead instances and their logs. The ids that are gone."""
        return self.submit(Remove(targets=tuple(targets)), Removed).instances

    def delete(self, artifact: str, workers: str = "all") -> tuple[view.DeleteView, ...]:
        """Remove an artifact, `NAME` or `NAME@DIGEST`, from the workers of a selector."""
        return self.submit(Delete(artifact=artifact, workers=workers), Deleted).workers

    def copy(self, command: Copy) -> tuple[view.CopyView, ...]:
        """Put an artifact whose blobs the master has on workers; one row for each."""
        return self.submit(command, Copied).workers

    def plan(self, request: PlanRequest) -> list[PlanView]:
        """What a copy would send, to the master itself first."""
        body = msgspec.json.encode(request)
        answer = self._ask(Request("POST", "/v1/plan", (), body, WAIT_S))
        return _decode(answer.body, msgspec.json.Decoder(list[PlanView]))

    def submit(self, command: AnyCommand, expected: type[T], id: CommandId | None = None) -> T:
        """Carry out a command and wait for its result, however long that takes.

        The same `id` with the same command has one effect and one answer. Meanwhile, and after
        ctrl-C, `under_way` is the id. Raises TimedOut when the master was reached and then gone
        for `patience_s`: nobody knows then what came of it.
        """
        submission = Submission(id=id or os.urandom(16).hex(), command=command)
        try:
            body = msgspec.json.encode(submission)
        except UnicodeEncodeError as error:
            raise Invalid(f"not UTF-8: {error.object[:80]!a}") from error
        request = Request("POST", "/v1/commands", [("wait_s", WAIT_S)], body, WAIT_S)
        patience = Patience(self._patience_s, self._clock)
        result: AnyResult = Accepted(id=submission.id)
        self.under_way = submission.id
        try:
            while isinstance(result, Accepted):
                patience.lost_at = None
                result = _decode(self._ask(request, patience).body, _RESULT)
        except (Lost, TimedOut) as error:
            raise TimedOut(
                f"{error.message}: the outcome is unknown; command id {submission.id}",
                command=submission.id,
            ) from error
        except CorpsError:
            self.under_way = None
            raise
        self.under_way = None
        if not isinstance(result, expected):
            raise ProtocolError(f"the master answered {type(result).__name__} to a command")
        return result

    def check(self, check: Check, on: str = "all") -> list[CheckView]:
        """Which workers of a selector could run it, as they say now. Nothing is copied."""
        body = msgspec.json.encode(check)
        answer = self._ask(Request("POST", "/v1/check", [("on", on)], body, CHECK_S))
        return _decode(answer.body, msgspec.json.Decoder(list[CheckView]))

    def workers(self) -> list[view.WorkerView]:
        return self._read("/v1/workers", (), list[view.WorkerView])

    def artifacts(self) -> list[view.ArtifactView]:
        return self._read("/v1/artifacts", (), list[view.ArtifactView])

    def drift(self, artifact: str | None = None) -> list[upkeep.DriftView]:
        """Of one artifact or all, read whole where they are: that takes as long as it takes."""
        query = [] if artifact is None else [("artifact", artifact)]
        return self._read("/v1/artifacts/drift", query, list[upkeep.DriftView], VERIFY_S)

    def garbage(
        self, budget_bytes: int | None = None, *, with_newest: bool = False
    ) -> upkeep.GarbagePlan:
        """Which versions `delete` may take, so that what is left is within the budget."""
        query: Query = [
            *([] if budget_bytes is None else [("budget", budget_bytes)]),
            *([("newest", 1)] if with_newest else []),
        ]
        return self._read("/v1/artifacts/garbage", query, upkeep.GarbagePlan, SERIES_S)

    def room(self) -> list[upkeep.RoomView]:
        return self._read("/v1/artifacts/room", (), list[upkeep.RoomView], SERIES_S)

    def quarantine(self, artifact: str) -> int:
        """Put away what is damaged of it at the master; how many blobs."""
        body = msgspec.json.encode(upkeep.Order(artifact=artifact))
        answer = self._ask(Request("POST", "/v1/artifacts/quarantine", (), body, VERIFY_S))
        return _decode(answer.body, msgspec.json.Decoder(dict[str, int]))["blobs"]

    def remove_orphans(self) -> tuple[int, int]:
        """Remove the master's old blobs that no version names; how many, and their bytes."""
        body = msgspec.json.encode(upkeep.Order())
        answer = self._ask(Request("POST", "/v1/artifacts/orphans", (), body, SERIES_S))
        removed = _decode(answer.body, msgspec.json.Decoder(dict[str, int]))
        return removed["blobs"], removed["bytes"]

    def instances(
        self, targets: Sequence[str] = (), *, with_dead: bool = False
    ) -> list[view.InstanceView]:
        """Of these targets, or all. A dead one only when it is named itself, or `with_dead`."""
        query: Query = [*_targets(targets), *([("dead", 1)] if with_dead else [])]
        return self._read("/v1/instances", query, list[view.InstanceView])

    def usage(self, targets: Sequence[str] = ()) -> list[view.WorkerUsageView]:
        """Per worker. `targets` may be workers, instances and apps; none means all workers."""
        return self._read("/v1/usage", _targets(targets), list[view.WorkerUsageView])

    def usage_by_app(self, targets: Sequence[str] = ()) -> list[view.AppUsageView]:
        """Per app, over all workers and attempts."""
        return self._read("/v1/usage/apps", _targets(targets), list[view.AppUsageView])

    def usage_by_instance(self, targets: Sequence[str] = ()) -> list[view.InstanceUsageView]:
        return self._read("/v1/usage/instances", _targets(targets), list[view.InstanceUsageView])

    def why(self, targets: Sequence[str], **only: int) -> list[view.WhyView]:  # attempt, limit
        return self._read("/v1/why", [*_targets(targets), *only.items()], list[view.WhyView])

    def events(
        self, after: int = 0, limit: int = EVENTS_LIMIT, wait_s: float = 0.0
    ) -> list[view.EventView]:
        """At most `limit` events after number `after`; waits up to `wait_s` for the first."""
        query: Query = [("after", after), ("limit", limit), ("wait_s", wait_s)]
        return self._read("/v1/events", query, list[view.EventView], wait_s)

    def audit(
        self, targets: Sequence[str] = (), since: float | None = None, *, with_series: bool = False
    ) -> list[view.AuditView]:
        """`since`: unix seconds. `with_series`: each run with its usage over time."""
        query: Query = [
            *_targets(targets),
            *([] if since is None else [("since", since)]),
            *([("series", 1)] if with_series else []),
        ]
        return self._read("/v1/audit", query, list[view.AuditView], SERIES_S)

    def compare(self, versions: Sequence[str]) -> view.CompareView:
        """The versions of an app, `NAME`, each against the one before; or `NAME@A` and `NAME@B`."""
        query = [("version", version) for version in versions]
        return self._read("/v1/compare", query, view.CompareView)

    def secrets(self) -> list[SecretView]:
        """Names and versions, never what is in them."""
        return self._read("/v1/secrets", (), list[SecretView])

    def trail(self, after: int = 0, limit: int = TRAIL_PAGE_MAX, wait_s: float = 0.0) -> TrailPage:
        """Entries of the audit trail after a number; of a negative one the last so many."""
        query: Query = [("after", after), ("limit", limit), ("wait_s", wait_s)]
        return self._read("/v1/audit/trail", query, TrailPage, wait_s)

    def status(self) -> view.StatusView:
        return self._read("/v1/status", (), view.StatusView)

    def progress(self, command: CommandId) -> list[view.CopyView]:
        """How far a copy under way is, per worker."""
        return self._read(f"/v1/progress/{quote(command, safe='')}", (), list[view.CopyView])

    def copies(self) -> list[ProgressView]:
        """All copies that are under way, a row for each worker."""
        return self._read("/v1/progress", (), list[ProgressView])

    def log(self, slice: LogSlice, wait_s: float = 0.0) -> tuple[output_view.LogChunkView, bytes]:
        """Bytes of a log and where they are; `wait_s` waits for the first new byte.

        The chunk may begin after the offset asked for: what is older is gone then.
        """
        wanted = {name: getattr(slice, name) for name in slice.__struct_fields__[1:]}
        query = [(name, value) for name, value in wanted.items() if value is not None]
        query.append(("wait_s", wait_s))
        path = f"/v1/instances/{quote(slice.instance, safe='')}/log"
        answer = self._ask(Request("GET", path, query, None, wait_s))
        return _log_chunk(answer), answer.body

    def output(self, slice: OutputSlice, wait_s: float = 0.0) -> output_view.OutputView:
        """The next pieces of output in the order of time; `wait_s` waits for the first."""
        query: list[tuple[str, str | int | float]] = [("wait_s", wait_s)]
        for name in slice.__struct_fields__[1:]:
            value = getattr(slice, name)
            if value is not None:
                query.append((name, int(value) if isinstance(value, bool) else value))
        path = f"/v1/instances/{quote(slice.instance, safe='')}/output"
        return self._read(path, query, output_view.OutputView, wait_s)

    def shutdown(self, workers: Sequence[str]) -> None:
        """End these worker daemons with their keepers, then the master. Apps should be dead."""
        body = msgspec.json.encode({"workers": list(workers)})
        self._ask(Request("POST", "/v1/shutdown", (), body))

    def hello(self) -> access.HelloView:
        """Which cluster it is; its CAs."""
        return self._read("/v1/hello", (), access.HelloView)

    def whoami(self) -> access.CallerView:
        return self._read("/v1/whoami", (), access.CallerView)

    def trust(self) -> access.TrustView:
        return self._read("/v1/trust", (), access.TrustView)

    def ca(self) -> CaView:
        """The CA, and how far its rotation is."""
        return self._read("/v1/ca", (), CaView)

    def tokens(self) -> list[TokenView]:
        return self._read("/v1/tokens", (), list[TokenView])

    def users(self) -> list[UserView]:
        return self._read("/v1/users", (), list[UserView])

    def _read(self, path: str, query: Query, expected: type[T], wait_s: float = 0.0) -> T:
        answer = self._ask(Request("GET", path, query, None, wait_s))
        return _decode(answer.body, msgspec.json.Decoder(expected))

    def _ask(self, request: Request, patience: Patience | None = None) -> Answer:
        patience = patience or Patience(READ_PATIENCE_S, self._clock)
        while True:
            try:
                answer = self._connection.exchange(request, patience)
                if not 200 <= answer.status < 300:
                    raise _refusal(answer)
            except Lost as error:
                patience.wait(error)
            else:
                return answer


def _targets(targets: Sequence[str]) -> Query:
    return [("target", target) for target in targets]


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"bad answer: {error}; a master of another version?") from error


def _refusal(answer: Answer) -> CorpsError:
    try:
        failure = msgspec.json.decode(answer.body, type=Failure)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A master that breaks down while it answers; what it had begun may be done.
        return Lost(f"the master broke down and answered only HTTP {answer.status}")
    return error_of(failure.code, failure.message, failure.details)


def _log_chunk(answer: Answer) -> output_view.LogChunkView:
    try:
        return output_view.LogChunkView(
            offset=int(answer.headers["X-Corps-Offset"]),
            next_offset=int(answer.headers["X-Corps-Next-Offset"]),
            size_bytes=int(answer.headers["X-Corps-Size"]),
            is_final=answer.headers["X-Corps-Final"] == "1",
            first=int(answer.headers.get("X-Corps-First", 0)),
            why=answer.headers.get("X-Corps-Gone"),
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"bad log header: {error}") from error

"""The HTTP API: routes from HTTP to commands and questions. It decides nothing.

Errors are `Failure` in JSON with the status of their class; the OpenAPI document is served at
/v1/schema/openapi.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import ClientException, HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import QueryParameter

from corps.core.events import Commanded
from corps.errors import ERRORS, CorpsError, Denied
from corps.master import audit as auditing
from corps.master import copies, fitness, logs, queries, secrets, trail, trust, upkeep
from corps.master.certificates import Certificates
from corps.master.driver import MasterDriver
from corps.master.people import People
from corps.master.permissions import check_command, check_routes, guard_route
from corps.master.shelf import Shelf, load_manifest
from corps.master.stories import WHY_MAX, tell_why
from corps.master.usage import usage as by_worker
from corps.master.usage import usage_by_app as by_app
from corps.master.usage import usage_by_instance as by_instance
from corps.model.access import Caller
from corps.model.check import Check, CheckView
from corps.model.command import AnyResult, Copy, Failure, Launch, Submission
from corps.model.name import WorkerName, check_command_id
from corps.model.output_view import OutputView
from corps.model.trail import Deed, Outcome
from corps.model.view import (
    AppUsageView,
    AuditView,
    CompareView,
    EventView,
    InstanceUsageView,
    InstanceView,
    StatusView,
    WhyView,
    WorkerUsageView,
    WorkerView,
)
from corps.store.blobs import BlobStore
from corps.wire.output import LOG_CHUNK_MAX_BYTES
from corps.wire.worker import ReadLog, ReadOutput

BODY_MAX_BYTES = 4 << 20
SHUTDOWN_WAIT_S = 5.0

_log = logging.getLogger("corps.master")
Targets = Annotated[list[str] | None, QueryParameter(name="target", required=False)]
Versions = Annotated[list[str] | None, QueryParameter(name="version", required=False)]


class Master(NamedTuple):
    """What the routes work on."""

    driver: MasterDriver
    blobs: BlobStore
    version: str
    address: str
    shut_down: Callable[[list[WorkerName]], None]
    shelf: Shelf
    certificates: Certificates
    api_address: str | None = None
    host: str | None = None  # by which it is reached, where that was said

    @property
    def people(self) -> People:
        return People(self.driver)


class ShutdownOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which workers to end with the master."""

    workers: list[WorkerName] = []


def _of(state: State) -> Master:
    master: Master = state.master
    return master


@post("/v1/commands", status_code=200, summary="Carry out a command, once")
async def commands(
    request: Request[Any, Any, Any], state: State, data: Submission, wait_s: float = 30.0
) -> Response[AnyResult]:
    master, caller = _of(state), request.user
    check_command(caller, data.command)
    check_command_id(data.id)
    wait_s = queries.waiting_s(wait_s)
    async with master.shelf.held(data.command) as facts:
        if isinstance(data.command, Copy | Launch):
            load = functools.partial(load_manifest, master.blobs)
            await fitness.ask_before(master.driver, data, load)
        caller = master.people.still(caller)  # a slow sender may have lost the right meanwhile
        check_command(caller, data.command)
        command, body = secrets.sealed(master.driver, data.command)
        event = Commanded(data.id, body, command, caller.name, facts, caller.source)
        result = await master.driver.submit(event, wait_s)
    status = ERRORS[result.code].http_status if isinstance(result, Failure) else 200
    return Response(result, status_code=status, media_type=MediaType.JSON)


@post("/v1/check", status_code=200, summary="Which workers could run it, as they are now")
async def check(state: State, data: Check, on: str = "all") -> list[CheckView]:
    driver = _of(state).driver
    await driver.settled()
    return await fitness.check(driver, data, on)


@get("/v1/status", summary="The cluster and its master")
async def status(state: State) -> StatusView:
    master = _of(state)
    await master.driver.settled()
    return queries.status(master.driver, master.version, master.address)


@get("/v1/workers", summary="All workers and whether each is usable")
async def workers(state: State) -> list[WorkerView]:
    driver = _of(state).driver
    await driver.settled()
    return queries.workers(driver)


@get("/v1/instances", summary="Instances, with what the operating system says of them now")
async def instances(state: State, target: Targets, dead: bool = False) -> list[InstanceView]:
    driver = _of(state).driver
    await driver.settled()
    return await queries.instances(driver, target or [], with_dead=dead)


@get("/v1/usage", summary="CPU time and maximum resident set, per worker and instance")
async def usage(state: State, target: Targets) -> list[WorkerUsageView]:
    driver = _of(state).driver
    await driver.settled()
    return await by_worker(driver, target or [])


@get("/v1/usage/apps", summary="CPU time and maximum resident set, per app")
async def app_usage(state: State, target: Targets) -> list[AppUsageView]:
    driver = _of(state).driver
    await driver.settled()
    return await by_app(driver, target or [])


@get("/v1/usage/instances", summary="CPU time and maximum resident set, per instance")
async def instance_usage(state: State, target: Targets) -> list[InstanceUsageView]:
    driver = _of(state).driver
    await driver.settled()
    return await by_instance(driver, target or [])


@get("/v1/why", summary="The story of instances")
async def why(
    state: State, target: Targets, attempt: int | None = None, limit: int = WHY_MAX
) -> list[WhyView]:
    """Of more than `limit` instances those of whom there is the newest news."""
    driver = _of(state).driver
    await driver.settled()
    return await tell_why(driver, target or [], attempt, limit)


@get("/v1/events", summary="What happened, in order")
async def events(
    state: State, after: int = 0, limit: int = 1_000, wait_s: float = 0.0
) -> list[EventView]:
    driver = _of(state).driver
    await driver.settled()
    return await queries.events(driver, after, limit, wait_s)


@get("/v1/audit", summary="Copies, launches and runs with their phases")
async def audit(
    state: State, target: Targets, since: float = 0.0, series: bool = False
) -> list[AuditView]:
    driver = _of(state).driver
    await driver.settled()
    return await auditing.audit(driver, target or [], since, with_series=series)


@get("/v1/compare", summary="Versions of an app compared: NAME, or NAME@A and NAME@B")
async def compare(state: State, version: Versions) -> CompareView:
    driver = _of(state).driver
    await driver.settled()
    return await auditing.compare_versions(driver, version or [])


@get("/v1/instances/{id:str}/log", summary="Bytes of a log", media_type="application/octet-stream")
async def log(  # noqa: PLR0913, PLR0917 - one parameter for each of the query
    state: State,
    id: str,
    stream: str = "stdout",
    attempt: int | None = None,
    offset: int = 0,
    limit_bytes: int = LOG_CHUNK_MAX_BYTES,
    wait_s: float = 0.0,
) -> Response[bytes]:
    driver = _of(state).driver
    await driver.settled()
    question = ReadLog(
        ask=0, key="", stream=stream, offset=offset, limit_bytes=limit_bytes, wait_s=wait_s
    )
    answer = await logs.read_log(driver, id, question, attempt)
    headers = {
        "X-Corps-Offset": str(answer.offset),
        "X-Corps-Next-Offset": str(answer.offset + len(answer.data)),
        "X-Corps-Size": str(answer.size_bytes),
        "X-Corps-Final": "1" if answer.is_final else "0",
        "X-Corps-First": str(answer.first),
        **({} if answer.why is None else {"X-Corps-Gone": answer.why}),
    }
    return Response(answer.data, headers=headers, media_type="application/octet-stream")


@get("/v1/instances/{id:str}/output", summary="Both streams of an app, in the order of time")
async def output(  # noqa: PLR0913, PLR0917 - one parameter for each of the query
    state: State,
    id: str,
    stream: str | None = None,
    attempt: int | None = None,
    stdout: int = 0,
    stderr: int = 0,
    since: float | None = None,
    back_bytes: int | None = None,
    limit_bytes: int = LOG_CHUNK_MAX_BYTES,
    wait_s: float = 0.0,
    partial: bool = False,
) -> OutputView:
    driver = _of(state).driver
    await driver.settled()
    question = ReadOutput(
        ask=0,
        key="",
        stream=stream,
        stdout=stdout,
        stderr=stderr,
        since=since,
        back_bytes=back_bytes,
        limit_bytes=limit_bytes,
        wait_s=wait_s,
        partial=partial,
    )
    return await logs.read_output(driver, id, question, attempt)


@post("/v1/shutdown", status_code=200, summary="End workers, then this master")
async def shutdown(
    request: Request[Any, Any, Any], state: State, data: ShutdownOrder
) -> dict[str, str]:
    master = _of(state)
    text = f"with the workers {' '.join(data.workers)}" if data.workers else "the master alone"
    master.driver.witness(
        Deed(
            who=request.user.name,
            source=request.user.source,
            act="shutdown",
            outcome=Outcome.ACCEPTED,
            detail=text,
        )
    )
    with contextlib.suppress(TimeoutError):  # a full disk must not keep anybody from ending it
        await asyncio.wait_for(master.driver.settled(), SHUTDOWN_WAIT_S)
    master.shut_down(data.workers)
    return {}


def _failure(status: int, failure: Failure) -> Response[Failure]:
    return Response(failure, status_code=status, media_type=MediaType.JSON)


def _on_corps_error(request: Request[Any, Any, Any], error: CorpsError) -> Response[Failure]:
    caller = request.user
    if isinstance(error, Denied) and isinstance(caller, Caller):
        what = f"{request.method} {request.url.path}"
        _of(request.app.state).people.denied(caller.name, caller.source, what, error.message)
    failure = Failure(code=error.code, message=error.message, details=error.details)
    return _failure(error.http_status, failure)


def _on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Failure]:
    codes = {404: "not_found", 405: "malformed", 500: "bug"}
    extras: object = error.extra
    extra = ""
    if isinstance(extras, list):
        extra = "; ".join(f"{e.get('key', '')} {e.get('message', '')}".strip() for e in extras)
    message = f"{error.detail}: {extra}" if extra else error.detail
    code = codes.get(error.status_code, "malformed" if error.status_code < 500 else "bug")
    return _failure(error.status_code, Failure(code=code, message=message))


def _on_deep_json(_: Request[Any, Any, Any], error: RecursionError) -> Response[Failure]:
    return _failure(400, Failure(code="malformed", message="JSON nested too deep"))


def _on_bug(_: Request[Any, Any, Any], error: Exception) -> Response[Failure]:
    _log.error("a bug in a route", exc_info=error)
    text = f"a bug of the master, please report it: {type(error).__name__}: {error}"
    return _failure(500, Failure(code="bug", message=text))


def _only_json(request: Request[Any, Any, Any]) -> None:
    """A form or plain text is not a command, whatever it holds."""
    if request.method == "POST" and request.content_type[0] != "application/json":
        raise ClientException("send JSON as application/json", status_code=415)


REFUSAL = ResponseSpec(Failure, generate_examples=False, description="refused, and why")
STATUSES = sorted({error.http_status for error in ERRORS.values()} - {200, 500} | {401, 413, 415})
HANDLERS: list[HTTPRouteHandler] = [
    commands,
    check,
    status,
    workers,
    instances,
    usage,
    app_usage,
    instance_usage,
    why,
    events,
    audit,
    compare,
    upkeep.artifacts,
    upkeep.drift,
    upkeep.garbage,
    upkeep.room,
    upkeep.quarantine,
    upkeep.orphans,
    copies.plan,
    copies.progress,
    copies.under_way,
    log,
    output,
    shutdown,
    trust.hello,
    trust.whoami,
    trust.trust,
    trust.authorities,
    trust.tokens,
    trust.users,
    trail.trail,
    secrets.secrets,
]
check_routes(HANDLERS)
for one in HANDLERS:  # the document has what our handlers of errors answer, not litestar's own
    one.responses = dict.fromkeys(STATUSES, REFUSAL)


def make_app(master: Master) -> Litestar:
    """The ASGI application."""
    return Litestar(
        HANDLERS,
        state=State({"master": master}),
        exception_handlers={
            CorpsError: _on_corps_error,
            HTTPException: _on_http_error,
            RecursionError: _on_deep_json,
            Exception: _on_bug,
        },
        openapi_config=OpenAPIConfig(
            title="corps",
            version=master.version,
            path="/v1/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
            ),
            security=[{"token": []}],
        ),
        guards=[guard_route],
        before_request=_only_json,
        request_max_body_size=BODY_MAX_BYTES,
        logging_config=None,
    )

"""What the audit trail says of a command and of its result: no secret, no value of a variable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import assert_never

from corps.core import trust
from corps.core.events import Commanded
from corps.core.explain import signal_name
from corps.core.records import CommandRecord
from corps.errors import Denied
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
    Ruled,
    Sign,
    Signal,
    Signed,
    Stop,
    Tag,
    Tagged,
)
from corps.model.secret import AnySecret, DeleteSecret, SetSecret, names_of
from corps.model.trail import Deed, Outcome, short
from corps.model.trust import (
    AnyTrust,
    CreateToken,
    CreateUserToken,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    RotateCa,
    SetUser,
    TrustCommand,
)

NAMED_MAX = 20


def asked(event: Commanded, command: AnyCommand) -> Deed:
    """It was accepted; what comes of it is another deed."""
    subject, detail = _describe(command)
    return Deed(
        who=event.by,
        act=_act(command),
        outcome=Outcome.ACCEPTED,
        source=event.source,
        subject=subject,
        detail=detail,
        command=event.id,
    )


def refused(event: Commanded, failure: Failure) -> Deed:
    subject, detail = _describe(event.command)
    return Deed(
        who=event.by,
        act=_act(event.command),
        outcome=Outcome.DENIED if failure.code == Denied.code else Outcome.REFUSED,
        source=event.source,
        subject=subject,
        detail=f"{detail}: {failure.message}" if detail else failure.message,
        command=event.id,
    )


def answered(record: CommandRecord, result: AnyResult) -> Deed:
    """What came of it. When it was done at once, this is all that is said of it."""
    subject, asked = _describe(record.command)
    outcome, detail = _outcome(result)
    return Deed(
        who=record.by,
        act=_act(record.command),
        outcome=outcome,
        source=record.source,
        subject=subject,
        detail=detail if record.targets else asked,
        command=record.id,
    )


def _act(command: AnyCommand) -> str:
    return str(command.__struct_config__.tag)


def _describe(command: AnyCommand) -> tuple[str, str]:
    """Subject and detail."""
    match command:
        case Copy():
            tag = f" as {command.tag}" if command.tag else ""
            forced = ", forced" if command.transfer.forced else ""
            return f"{command.name}@{command.digest[:12]}", f"to {command.to}{tag}{forced}"
        case Delete():
            return command.artifact, f"from {command.workers}"
        case Launch():
            return command.artifact, _launch(command)
        case Stop():
            return _some(command.targets), f"grace {command.grace_s:g} s"
        case Kill() | Remove():
            return _some(command.targets), ""
        case Signal():
            return _some(command.targets), signal_name(command.signal)
        case Sign():
            vouched = command.signature.vouched
            return f"{vouched.name}@{vouched.digest[:12]}", f"by key {command.signature.key}"
        case Tag():
            return command.artifact, command.tag or "taken away"
        case TrustCommand():
            return trust.subject(command), _trust(command)
        case _:
            assert_never(command)


def _launch(command: Launch) -> str:
    """Arguments are said, as `ps` shows them; of the environment names only."""
    parts = [f"on {command.on}"] if command.on is not None else []
    parts += [f"count {command.count}"] if command.count is not None else []
    parts += [f"user {command.terms.user}"] if command.terms.user is not None else []
    parts += [f"restart {command.restart.value}"]
    parts += [f"env {_some(sorted(command.env))}"] if command.env else []
    secrets = names_of(command.terms.secrets)
    parts += [f"secrets {_some(secrets)}"] if secrets else []
    parts += [f"args {short(' '.join(map(repr, command.args[:NAMED_MAX])))}"] * bool(command.args)
    return ", ".join(parts)


def _trust(command: AnyTrust | AnySecret) -> str:
    match command:
        case CreateToken():
            only = f", for {command.worker}" if command.worker is not None else ""
            return f"lets workers join: uses {command.uses}, ttl {command.ttl_s:.10g} s{only}"
        case CreateUserToken():
            return f"of {command.user}, ttl {command.ttl_s:.10g} s"
        case SetUser():
            return f"role {command.role.value}"
        case (
            RevokeToken()
            | RevokeWorker()
            | RemoveUser()
            | RotateCa()
            | SetSecret()
            | DeleteSecret()
        ):
            return ""
        case _:
            assert_never(command)


def _outcome(result: AnyResult) -> tuple[Outcome, str]:
    match result:
        case Failure():
            return Outcome.FAILED, result.message
        case Instances():
            rows = result.instances
            failed = any(row.death is not None and row.death.kind == "spawn_failed" for row in rows)
            text = _some(f"{row.id} {row.state} on {row.worker}" for row in rows)
            return Outcome.FAILED if failed else Outcome.DONE, text
        case Copied() | Deleted():
            counts = Counter(row.result for row in result.workers)
            return Outcome.DONE, _some(f"{count} {text}" for text, count in counts.items())
        case Removed():
            return Outcome.DONE, _some(result.instances)
        case Signed() | Tagged() | Ruled() | Accepted():
            return Outcome.DONE, ""
        case _:
            assert_never(result)


def _some(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - NAMED_MAX} more" if len(words) > NAMED_MAX else ""
    return ", ".join(words[:NAMED_MAX]) + more

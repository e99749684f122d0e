"""ps, stop, kill, signal, rm: instances and what came of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import (
    TARGET,
    Aim,
    aimed,
    is_dead,
    is_live,
    output_option,
    verb,
)
from corps.cli.render import MISSING, Column, Listing, Output
from corps.errors import Failed, TimedOut, Unavailable
from corps.model.command import GRACE_MAX_S
from corps.model.instance import Cause, InstanceState
from corps.model.name import split_instance_id
from corps.model.spec import parse_signal
from corps.model.view import InstanceView


@verb("ps")
@click.argument("targets", nargs=-1, type=TARGET, metavar="[TARGET...]")
@click.option("-a", "--all", "with_dead", is_flag=True, help="Dead ones too.")
@output_option
@click.pass_obj
def ps(operator: Operator, targets: tuple[str, ...], with_dead: bool, output: Output) -> None:
    """List instances with pid, state and reason of death."""
    render.show(operator.client.instances(targets, with_dead=with_dead), INSTANCES, output)


@verb("stop")
@aimed
@click.option(
    "--grace",
    type=click.FloatRange(0, GRACE_MAX_S),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between SIGINT and SIGKILL.",
)
@output_option
@click.pass_obj
def stop(operator: Operator, aim: Aim, grace: float, output: Output) -> None:
    """SIGINT, then SIGKILL after the grace; says which one ended it."""
    ids = aim.find(operator, "stop", is_live)
    _report(operator.client.stop(ids, grace) if ids else (), output)


@verb("kill")
@aimed
@output_option
@click.pass_obj
def kill(operator: Operator, aim: Aim, output: Output) -> None:
    """SIGKILL now."""
    ids = aim.find(operator, "kill", is_live)
    _report(operator.client.kill(ids) if ids else (), output)


@verb("signal")
@click.argument("signal", metavar="SIG")
@aimed
@output_option
@click.pass_obj
def signal(operator: Operator, aim: Aim, signal: str, output: Output) -> None:
    """Send any signal: INT, SIGINT or 2."""
    number = parse_signal(signal)
    ids = aim.find(operator, f"send {signal} to", is_live)
    _report(operator.client.signal(ids, number) if ids else (), output)


@verb("rm")
@aimed
@output_option
@click.pass_obj
def rm(operator: Operator, aim: Aim, output: Output) -> None:
    """Forget dead instances and their logs."""
    ids = aim.find(operator, "forget", is_dead)
    removed = operator.client.remove(ids) if ids else ()
    if not removed:
        render.note("no dead instance")
    render.show([{"id": id} for id in removed], REMOVED, output)
    kept = sorted({id for id in ids if split_instance_id(id)} - set(removed))
    if kept:
        raise Unavailable(f"not forgotten: {' '.join(kept)}: their workers do not answer")


def state_of(row: InstanceView) -> str:
    """What the operating system says while it lives, else the state and reason."""
    if row.death is not None:
        again = next_attempt(row)
        after = f"{again} after " if again else ""
        return f"{row.state}: {after}{row.death.message}"
    if row.state == InstanceState.RUNNING:
        return row.os_state or row.state
    return f"{row.state} ({row.os_state})" if row.os_state else row.state


def next_attempt(row: InstanceView) -> str | None:
    """When one that waits for its next attempt begins it; its worker must be usable then."""
    if row.not_before is None:
        return None
    left_s = row.waits_s
    when = f"in {left_s:.1f} s" if left_s else f"as soon as {row.worker} is ready,"
    return f"attempt {row.attempt + 1} {when}"


def _report(rows: Sequence[InstanceView], output: Output) -> None:
    if not rows:
        render.note("no live instance")
    render.show(rows, LAUNCHED, output)
    check_known(rows)
    for row in (left := [row for row in rows if _has_survivors(row)]):
        names = ", ".join(f"{one.pid} {one.command}" for one in row.survivors)
        render.error(f"{row.id}: SIGKILL does not end {names}")
    if left:
        raise Failed(f"of {len(left)} of {len(rows)} instances something is left")


def _has_survivors(row: InstanceView) -> bool:
    """What a leader that ended by itself has left was meant to go on."""
    is_meant = row.death is not None and row.death.cause == Cause.SELF
    return bool(row.survivors) and not is_meant


def check_known(rows: Sequence[InstanceView]) -> None:
    unknown = [row for row in rows if row.state == InstanceState.UNKNOWN]
    for row in unknown:
        render.error(f"{row.id}: its worker {row.worker} does not answer")
    if unknown:
        raise TimedOut(f"what became of {len(unknown)} of {len(rows)} instances is unknown yet")


def _enforced(row: InstanceView) -> str:
    return " ".join(f"{name}={how}" for name, how in sorted(row.enforced.items())) or MISSING


def _ran(row: InstanceView) -> str:
    """How long it ran, or has been running."""
    return render.duration(row.ran_s)


def _cpu(row: InstanceView) -> str:
    user_s, system_s = row.usage.cpu_user_s, row.usage.cpu_system_s
    return MISSING if user_s is None or system_s is None else render.duration(user_s + system_s)


INSTANCES: Listing[InstanceView] = Listing(
    lambda row: row.id,
    (
        Column("INSTANCE", lambda row: row.id),
        Column("WORKER", lambda row: row.worker),
        Column("PID", lambda row: render.number(row.pid)),
        Column("ATTEMPT", lambda row: str(row.attempt), is_wide=True),
        Column("RAN", _ran),
        Column("CPU", _cpu),
        Column("MAX RSS", lambda row: render.size(row.usage.max_rss_bytes)),
        Column("RSS", lambda row: render.size(row.usage.rss_bytes), is_wide=True),
        Column("RESTART", lambda row: row.restart, is_wide=True),
        Column("ENFORCED", _enforced, is_wide=True),
        Column("STARTED", lambda row: row.started_at or MISSING, is_wide=True),
        Column("ENDED", lambda row: row.ended_at or MISSING, is_wide=True),
        Column("DIGEST", lambda row: render.short(row.digest), is_wide=True),
        Column("STATE", state_of),
        Column("ARGUMENTS", lambda row: shlex.join(row.args), is_wide=True),
    ),
)
LAUNCHED: Listing[InstanceView] = Listing(
    lambda row: row.id,
    (
        Column("INSTANCE", lambda row: row.id),
        Column("WORKER", lambda row: row.worker),
        Column("PID", lambda row: render.number(row.pid)),
        Column("DIGEST", lambda row: render.short(row.digest), is_wide=True),
        Column("STATE", state_of),
    ),
)
REMOVED: Listing[dict[str, str]] = Listing(
    lambda row: row["id"], (Column("FORGOTTEN", lambda row: row["id"]),)
)

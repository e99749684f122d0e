"""launch: from the words of an operator to the terms of a launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import click

from corps.cli import render
from corps.cli.apps import LAUNCHED, check_known, next_attempt
from corps.cli.operator import Operator
from corps.cli.options import ARTIFACT, SECRET, SELECTOR, output_option, verb
from corps.cli.render import Output
from corps.errors import Failed, Invalid
from corps.model.command import COUNT_MAX, Launch
from corps.model.secret import parse_uses
from corps.model.spec import check_env_pair
from corps.model.terms import (
    LOG_DEFAULT_BYTES,
    Limits,
    Linger,
    Restart,
    Terms,
    check_terms,
    parse_limits,
    parse_restart,
    parse_size,
    parse_umask,
)
from corps.model.view import InstanceView

SPAWN_FAILED = "spawn_failed"


class LaunchOptions(TypedDict):
    name: str
    on: str | None
    count: int | None
    env: tuple[str, ...]
    cwd: str | None
    args: tuple[str, ...]
    restart: str
    limits: tuple[str, ...]
    memory: str | None
    cpus: float | None
    pids: int | None
    watchdog: bool
    user: str | None
    new_privileges: bool
    nice: int | None
    umask: str | None
    linger: str
    log_max: str | None
    secrets: tuple[str, ...]
    secret_fds: tuple[str, ...]
    secret_variables: tuple[str, ...]
    output: Output


@verb("launch")
@click.argument("name", type=ARTIFACT)
@click.argument("args", nargs=-1, metavar="[-- ARG...]")
@click.option("--on", type=SELECTOR, metavar="SELECTOR", help="Workers: w1,w3 w[1-8] zone=a all.")
@click.option("--count", type=click.IntRange(1, COUNT_MAX), help="How many, in all.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="Set a variable.")
@click.option("--cwd", metavar="DIR", help="Start in this directory, an absolute path.")
@click.option(
    "--restart",
    default=Restart.NEVER.value,
    show_default=True,
    metavar="POLICY",
    help="never, on-failure, always; on-failure:5 gives up after 5 failures in a row.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="K=V,...",
    help="Of each process: nofile nproc core as cpu.",
)
@click.option("--memory", metavar="SIZE", help="Of the whole instance: 512M.")
@click.option("--cpus", type=float, metavar="N", help="Of the whole instance: 1.5.")
@click.option("--pids", type=int, metavar="N", help="Processes and threads of the instance.")
@click.option("--watchdog", is_flag=True, help="Where no cgroup can be had, let the worker watch.")
@click.option("--user", metavar="NAME[:GROUP]", help="Run as this user.")
@click.option("--new-privileges", is_flag=True, help="Let setuid programs work, sudo for one.")
@click.option("--nice", type=int, metavar="N", help="From -20 to 19.")
@click.option("--umask", metavar="MODE", help="Octal: 027.")
@click.option(
    "--linger",
    type=click.Choice([policy.value for policy in Linger]),
    default=Linger.KILL.value,
    show_default=True,
    help="What becomes of descendants that outlive the leader.",
)
@click.option(
    "--secret",
    "secrets",
    type=SECRET,
    multiple=True,
    metavar="NAME[=FILE]",
    help="A file of that name, in the directory $CORPS_SECRETS.",
)
@click.option(
    "--secret-fd",
    "secret_fds",
    multiple=True,
    metavar="NAME=N",
    help="As the open descriptor N.",
)
@click.option(
    "--secret-env",
    "secret_variables",
    multiple=True,
    metavar="K=NAME",
    help="As a variable, for what can read nothing else.",
)
@click.option("--log-max", metavar="SIZE", help="Of each stream on disk: 256M unless said.")
@output_option
@click.pass_obj
def launch(operator: Operator, **options: Unpack[LaunchOptions]) -> None:
    """Start instances of an artifact: NAME or NAME@DIGEST.

    Without --count: one on each worker of --on; without --on too: one in all. Answers with
    instance, worker and pid, or the exact reason why not (exit status 1).
    """
    restart, failures_max = parse_restart(options["restart"])
    rows = operator.client.launch(
        Launch(
            artifact=options["name"],
            on=options["on"],
            count=options["count"],
            args=options["args"],
            env=_environment(options["env"]),
            cwd=options["cwd"],
            terms=_terms(options),
            restart=restart,
            failures_max=failures_max,
        )
    )
    render.show(rows, LAUNCHED, options["output"])
    failed = [row for row in rows if row.death is not None and row.death.kind == SPAWN_FAILED]
    reasons = [f"{row.id} on {row.worker}: {_reason(row)}" for row in failed]
    if len(rows) == 1 and reasons:
        raise Failed(reasons[0])
    for reason in reasons:
        render.error(reason)
    if failed:
        raise Failed(f"{len(failed)} of {len(rows)} instances did not start")
    check_known(rows)


def _reason(row: InstanceView) -> str:
    assert row.death is not None
    again = next_attempt(row)
    return f"{row.death.message}; {again}" if again else row.death.message


def _terms(options: LaunchOptions) -> Terms:
    rlimits: dict[str, Any] = parse_limits(options["limits"])
    memory, log_max = options["memory"], options["log_max"]
    terms = Terms(
        limits=Limits(
            **rlimits,
            memory_bytes=None if memory is None else parse_size("memory", memory),
            cpus=options["cpus"],
            pids=options["pids"],
            watchdog=options["watchdog"],
        ),
        user=options["user"],
        new_privileges=options["new_privileges"],
        nice=options["nice"],
        umask=None if options["umask"] is None else parse_umask(options["umask"]),
        linger=Linger(options["linger"]),
        log_max_bytes=LOG_DEFAULT_BYTES if log_max is None else parse_size("log-max", log_max),
        secrets=parse_uses(options["secrets"], options["secret_fds"], options["secret_variables"]),
    )
    check_terms(terms)
    return terms


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    environment: dict[str, str] = {}
    for pair in pairs:
        name, value = check_env_pair(pair)
        if name in environment:
            raise Invalid(f"variable {name!r} is given twice", field="env")
        environment[name] = value
    return environment

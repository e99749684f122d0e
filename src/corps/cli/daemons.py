"""up, down, master, worker: the daemons, and a whole cluster of them on this machine."""

from __future__ import annotations

import signal
import sys
from typing import Unpack

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import verb
from corps.cli.token import TokenOptions, given_token, join_by, token_options
from corps.config import HEARTBEAT_MAX_S, HEARTBEAT_MIN_S, SAMPLE_MAX_S
from corps.errors import Conflict, Invalid
from corps.model.selector import check_label
from corps.model.terms import parse_size
from corps.net.address import parse_address

WORKERS_MAX = 64

heartbeat_option = click.option(
    "--heartbeat",
    type=click.FloatRange(HEARTBEAT_MIN_S, HEARTBEAT_MAX_S),
    metavar="S",
    help="Seconds between heartbeats.",
)


class WorkerOptions(TokenOptions):
    master: str
    name: str | None
    labels: tuple[str, ...]
    heartbeat: float | None
    disk_reserve: str | None
    sample: float | None
    policy: str | None
    keeper: str | None


@verb("master")
@click.option("--listen", metavar="HOST:PORT", help="Where workers dial in.")
@click.option("--api", metavar="HOST:PORT", help="HTTPS for people elsewhere, on another port.")
@click.option("--host", metavar="NAME", help="Another name by which this master is reached.")
@heartbeat_option
@click.option("--accept-rollback", is_flag=True, help="Go on from an older copy of state.db.")
@click.pass_obj
def master(
    operator: Operator,
    listen: str | None,
    api: str | None,
    host: str | None,
    heartbeat: float | None,
    accept_rollback: bool,
) -> None:
    """Run the master in the foreground; prints its addresses and how workers join."""
    settings = operator.load(listen=listen, api=api, host=host, heartbeat_s=heartbeat)
    parse_address(settings.listen)
    if settings.api is not None:
        parse_address(settings.api)
    from corps.master.main import run  # noqa: PLC0415  # half a second that only the master costs

    run(settings, accepts_rollback=accept_rollback)


@verb("worker")
@click.option("--master", required=True, metavar="HOST:PORT", help="Where the master listens.")
@token_options
@click.option("--name", metavar="N", help="What to be called; else the name it had, or a new one.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="For selectors.")
@click.option(
    "--disk-reserve", metavar="SIZE", help="Kept free for others: the smaller of 5 % and 1G."
)
@heartbeat_option
@click.option(
    "--sample",
    type=click.FloatRange(0, SAMPLE_MAX_S),
    metavar="S",
    help="Seconds between samples of usage, 5 unless said; 0: none.",
)
@click.option(
    "--policy", metavar="FILE", help="What may start here; else /etc/corps/worker-policy.toml."
)
@click.option("--keeper", metavar="DIR", help="Of a keeper that 'corps keeper' has started.")
@click.pass_obj
def worker(operator: Operator, **options: Unpack[WorkerOptions]) -> None:
    """Run a worker in the foreground; ending it leaves the apps running.

    'corps join' first makes this machine one, 'corps worker revoke W' is said at the master.
    """
    _, port = parse_address(options["master"])
    if port == 0:
        raise Invalid(f"bad address {options['master']!r}: no master has port 0", field="master")
    labels = dict(check_label(label) for label in options["labels"])
    if len(labels) < len(options["labels"]):
        raise Invalid("a label is given twice", field="label")
    reserve = options["disk_reserve"]
    reserve_bytes = None if reserve is None else parse_size("disk-reserve", reserve)
    settings = operator.load(
        heartbeat_s=options["heartbeat"],
        disk_reserve_bytes=reserve_bytes,
        sample_s=options["sample"],
        policy=options["policy"],
        keeper=options["keeper"],
    )
    name = options["name"]
    if (token := given_token(options)) is not None:
        name = join_by(settings, options["master"], token, name)
    from corps.worker.main import run  # noqa: PLC0415  # what only the worker costs

    run(
        settings,
        master=options["master"],
        name=name,
        labels=labels,
    )


@verb("up")
@click.option(
    "--workers", type=click.IntRange(1, WORKERS_MAX), default=1, show_default=True, metavar="N"
)
@click.option("--detach", is_flag=True, help="Return when all workers are ready.")
@heartbeat_option
@click.pass_obj
def up(operator: Operator, workers: int, detach: bool, heartbeat: float | None) -> None:
    """Start a master and N workers on this machine: w1, w2, ...

    On a terminal it opens the shell. Ctrl-C or 'corps down' ends the daemons and the apps.
    """
    from corps.cli.local import Cluster  # noqa: PLC0415  # only up and down need it

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    names = [f"w{number}" for number in range(1, workers + 1)]
    cluster = Cluster(operator.load(heartbeat_s=heartbeat), names)
    cluster.start()
    render.note(f"corps: master and {' '.join(names)} are ready in {cluster.settings.state_dir}")
    if detach:
        return
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            from corps.cli.shell import Shell  # noqa: PLC0415  # only a terminal needs it

            Shell(operator.elsewhere(dir=cluster.settings.dir), ends_on_interrupt=True).run()
        else:
            cluster.watch()
    except (KeyboardInterrupt, SystemExit):
        pass  # asked to end, which is no failure
    cluster.end()


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)


@verb("down")
@click.pass_obj
def down(operator: Operator) -> None:
    """End what 'corps up' started on this machine: apps, workers and master."""
    from corps.cli.local import find_cluster  # noqa: PLC0415  # only up and down need it

    cluster = find_cluster(operator.settings)
    pid = cluster.master_pid
    if pid is not None and not cluster.names:
        raise Conflict(
            f"the master of {operator.settings.state_dir} was not started by 'corps up': "
            f"end it with 'kill {pid}'"
        )
    if cluster.end():
        render.note("corps: ended")
    else:
        render.note(f"corps: nothing to end in {operator.settings.state_dir}")

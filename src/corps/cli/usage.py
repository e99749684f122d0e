"""usage: what instances use now and have used, per worker, app or instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import CHILD, Aim, all_option, figures_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.model.view import (
    AppUsageView,
    InstanceUsageView,
    TreesView,
    TreeView,
    WorkerUsageView,
)

BY = ("worker", "app", "instance")

UsageLine: TypeAlias = tuple[WorkerUsageView, InstanceUsageView | None]
Row = TypeVar("Row")


@verb("usage")
@click.argument("targets", nargs=-1, type=CHILD, metavar="[WORKER or TARGET...]")
@all_option
@click.option("--by", type=click.Choice(BY), default="worker", show_default=True, help="A row of.")
@figures_option
@click.pass_obj
def usage(
    operator: Operator, targets: tuple[str, ...], is_all: bool, by: str, output: Output
) -> None:
    """CPU time and maximum resident set of all children; threads, descriptors and I/O of their
    whole trees.

    The table by worker has a row for each instance when TARGETs are given or with -o wide.
    """
    if is_all:
        Aim(targets, is_all).check()
    if by == "app":
        render.show(operator.client.usage_by_app(targets), APPS, output)
    elif by == "instance":
        render.show(operator.client.usage_by_instance(targets), INSTANCES, output)
    else:
        _show_workers(operator.client.usage(targets), bool(targets), output)


def _show_workers(rows: list[WorkerUsageView], has_targets: bool, output: Output) -> None:
    if output in (Output.JSON, Output.JSONL):
        render.show(rows, USAGE_OF_WORKERS, output)
        return
    detailed = has_targets or output is Output.WIDE
    lines: list[UsageLine] = []
    for row in rows:
        lines.append((row, None))
        lines.extend((row, child) for child in row.instances if detailed)
    render.show(lines, USAGE, output)


def _usage_of(line: UsageLine) -> WorkerUsageView | InstanceUsageView:
    worker, child = line
    return child or worker


def _tree_of(line: UsageLine) -> TreeView | TreesView | None:
    worker, child = line
    return child.tree if child else worker.trees


def _tree_cpu_s(tree: TreeView | None) -> float | None:
    return None if tree is None else tree.cpu_user_s + tree.cpu_system_s


def _tree_columns(
    tree: Callable[[Row], TreeView | TreesView | None],
) -> tuple[Column[Row], ...]:
    def number(name: str) -> Callable[[Row], str]:
        return lambda row: render.number(getattr(tree(row), name, None))

    def size(name: str) -> Callable[[Row], str]:
        return lambda row: render.size(getattr(tree(row), name, None))

    return (
        Column("TREE RSS", size("rss_bytes"), is_wide=True),
        Column("PROCESSES", number("processes"), is_wide=True),
        Column("THREADS", number("threads")),
        Column("FDS", number("fds")),
        Column("READ", size("io_read_bytes")),
        Column("WRITTEN", size("io_write_bytes")),
    )


SUMS = "rss_bytes processes threads fds io_read_bytes io_write_bytes"
TREE = (
    "at samples cpu_user_s cpu_system_s rss_bytes rss_mean_bytes rss_peak_bytes processes "
    "processes_max threads threads_max fds fds_max io_read_bytes io_write_bytes"
)
USAGE_OF_WORKERS: Listing[WorkerUsageView] = Listing(lambda row: row.worker, ())
USAGE: Listing[UsageLine] = Listing(
    lambda line: line[1].id if line[1] else line[0].worker,
    (
        Column("WORKER", lambda line: line[0].worker),
        Column("INSTANCE", lambda line: line[1].id if line[1] else MISSING),
        Column("LIVE", lambda line: MISSING if line[1] else render.number(line[0].children_live)),
        Column("DEAD", lambda line: MISSING if line[1] else render.number(line[0].children_dead)),
        Column("CPU USER", lambda line: render.duration(_usage_of(line).cpu_user_s)),
        Column("CPU SYSTEM", lambda line: render.duration(_usage_of(line).cpu_system_s)),
        Column("MAX RSS", lambda line: render.size(_usage_of(line).max_rss_bytes)),
        Column(
            "SOURCE",
            lambda line: (line[1] and line[1].max_rss_source) or MISSING,
            is_wide=True,
        ),
        Column("RSS", lambda line: render.size(_usage_of(line).rss_bytes)),
        *_tree_columns(_tree_of),
    ),
    (
        ("worker", lambda line: line[0].worker),
        ("instance", lambda line: line[1].id if line[1] else None),
        ("children_live", lambda line: None if line[1] else line[0].children_live),
        ("children_dead", lambda line: None if line[1] else line[0].children_dead),
        ("cpu_user_s", lambda line: _usage_of(line).cpu_user_s),
        ("cpu_system_s", lambda line: _usage_of(line).cpu_system_s),
        ("max_rss_bytes", lambda line: _usage_of(line).max_rss_bytes),
        ("rss_bytes", lambda line: _usage_of(line).rss_bytes),
        *render.csv_fields(SUMS, _tree_of, "tree_"),
    ),
)
APPS: Listing[AppUsageView] = Listing(
    lambda row: row.app,
    (
        Column("APP", lambda row: row.app),
        Column("WORKERS", lambda row: ",".join(row.workers), is_wide=True),
        Column("LIVE", lambda row: str(row.instances_live)),
        Column("DEAD", lambda row: str(row.instances_dead)),
        Column("CPU USER", lambda row: render.duration(row.cpu_user_s)),
        Column("CPU SYSTEM", lambda row: render.duration(row.cpu_system_s)),
        Column("MAX RSS", lambda row: render.size(row.max_rss_bytes)),
        Column("RSS", lambda row: render.size(row.rss_bytes)),
        *_tree_columns(lambda row: row.trees),
    ),
    (
        *render.csv_fields(
            "app instances_live instances_dead cpu_user_s cpu_system_s max_rss_bytes rss_bytes"
        ),
        *render.csv_fields(SUMS, lambda row: row.trees, "tree_"),
    ),
)
INSTANCES: Listing[InstanceUsageView] = Listing(
    lambda row: row.id,
    (
        Column("INSTANCE", lambda row: row.id),
        Column("WORKER", lambda row: row.worker),
        Column("STATE", lambda row: row.state),
        Column("ATTEMPT", lambda row: str(row.attempt), is_wide=True),
        Column("CPU USER", lambda row: render.duration(row.cpu_user_s)),
        Column("CPU SYSTEM", lambda row: render.duration(row.cpu_system_s)),
        Column("MAX RSS", lambda row: render.size(row.max_rss_bytes)),
        Column("SOURCE", lambda row: row.max_rss_source or MISSING, is_wide=True),
        Column("RSS", lambda row: render.size(row.rss_bytes)),
        Column("TREE CPU", lambda row: render.duration(_tree_cpu_s(row.tree)), is_wide=True),
        *_tree_columns(lambda row: row.tree),
    ),
    (
        *render.csv_fields(
            "id app worker attempt state cpu_user_s cpu_system_s max_rss_bytes max_rss_source "
            "rss_bytes"
        ),
        *render.csv_fields(TREE, lambda row: row.tree, "tree_"),
    ),
)

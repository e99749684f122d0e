"""Rows about usage: exact where the kernel is, sampled where it is not, null where nobody knows."""

from __future__ import annotations

import msgspec
import pytest

from corps.core.usage import view_apps, view_instance_usage, view_samples, view_tree, view_trees
from corps.model.certificate import certify
from corps.model.instance import InstanceState, RssSource, Usage
from corps.model.view import InstanceUsageView
from corps.wire.worker import LiveUsage
from tests.support.build import a_dead_instance, an_instance
from tests.support.usage import MIB, NOW, a_measured, a_point

FINAL = Usage(
    cpu_user_s=3.0, cpu_system_s=0.1, max_rss_bytes=30 * MIB, max_rss_source=RssSource.WAIT4
)


def live(**facts: object) -> LiveUsage:
    usage = Usage(cpu_user_s=0.5, cpu_system_s=0.1, max_rss_bytes=MIB, rss_bytes=MIB)
    return LiveUsage(key="web.1#1", os_state="sleeping", usage=usage, measured=a_measured(**facts))


def test_a_living_tree_is_what_its_worker_says() -> None:
    row = view_instance_usage(an_instance(), live())
    assert (row.app, row.worker, row.attempt) == ("web", "w1", 1)
    assert row.tree is not None
    assert (row.tree.processes, row.tree.fds, row.tree.rss_bytes) == (1, 3, 10 * MIB)
    assert (row.tree.cpu_user_s, row.tree.io_write_bytes) == (1.0, 6)


def test_what_the_kernel_counted_of_the_process_itself_is_part_of_its_tree() -> None:
    tree = view_tree(a_measured(), FINAL, is_live=False)
    assert tree is not None
    assert (tree.cpu_user_s, tree.cpu_system_s, tree.rss_peak_bytes) == (3.0, 0.5, 30 * MIB)


def test_an_upper_bound_is_no_peak() -> None:
    bound = msgspec.structs.replace(FINAL, max_rss_source=RssSource.FLOOR)
    tree = view_tree(a_measured(), bound, is_live=False)
    assert tree is not None and tree.rss_peak_bytes == 20 * MIB


def test_the_dead_have_no_resident_set_any_more_but_their_peaks() -> None:
    row = view_instance_usage(a_dead_instance(usage=FINAL, measured=a_measured()), None)
    assert row.max_rss_source is RssSource.WAIT4
    assert row.tree is not None
    now = (row.tree.rss_bytes, row.tree.processes, row.tree.threads, row.tree.fds)
    assert now == (None, None, None, None)
    assert (row.tree.threads_max, row.tree.fds_max, row.tree.io_read_bytes) == (2, 4, 5)


def test_what_was_never_sampled_is_null_and_never_zero() -> None:
    assert view_instance_usage(an_instance(), None).tree is None
    assert view_instance_usage(a_dead_instance(usage=FINAL), None).tree is None


@pytest.mark.parametrize(
    "facts", [{"at": float("nan")}, {"at": -1.0}, {"cpu_user_s": float("inf")}]
)
def test_a_measure_that_cannot_be_is_missing(facts: dict[str, float]) -> None:
    assert view_tree(a_measured(**facts), None, is_live=True) is None


def rows(*measured: bool) -> list[InstanceUsageView]:
    return [
        view_instance_usage(an_instance(f"web.{number}"), live() if is_measured else None)
        for number, is_measured in enumerate(measured, 1)
    ]


def test_trees_add_up_over_the_living_and_only_when_all_are_known() -> None:
    dead = view_instance_usage(a_dead_instance("web.9", measured=a_measured()), None)
    total = view_trees([*rows(True, True), dead])
    assert (total.processes, total.threads, total.fds) == (2, 2, 6)
    assert (total.rss_bytes, total.io_write_bytes) == (20 * MIB, 12)
    assert view_trees(rows(True, False)).fds is None
    assert view_trees([dead]).processes == 0


def test_an_app_sums_up_its_instances_and_their_earlier_attempts() -> None:
    dead = a_dead_instance("web.2", usage=FINAL, attempt=2)
    earlier = [certify(msgspec.structs.replace(dead, attempt=1))]
    mine = [*rows(True), view_instance_usage(dead, None)]
    other = view_instance_usage(an_instance("db.1", worker="w2"), None)
    db, web = view_apps([*mine, other], earlier)
    assert (web.app, web.instances_live, web.instances_dead) == ("web", 1, 1)
    assert (web.cpu_user_s, web.max_rss_bytes, web.rss_bytes) == (6.5, 30 * MIB, MIB)
    assert (web.workers, web.trees.fds) == (("w1",), 3)
    assert (db.app, db.workers, db.cpu_user_s, db.rss_bytes) == ("db", ("w2",), None, None)


def test_samples_are_believed_as_far_as_they_can_be() -> None:
    points = [
        a_point(0),
        a_point(1, at=float("nan")),
        a_point(1, cpu_user_s=float("inf")),
        a_point(2, fds=None),
        a_point(1),  # back in time
    ]
    first, second = view_samples(points, NOW)
    assert (first.cpu_percent, first.fds, first.io_write_bytes) == (20.0, 3, MIB)
    assert (second.cpu_percent, second.fds, second.processes) == (20.0, None, 1)
    assert first.at == "2025-06-15T15:06:45.000Z"


def test_between_two_attempts_it_has_no_process_and_hides_nobody_elses() -> None:
    dead = a_dead_instance("web.2", usage=FINAL, measured=a_measured())
    waiting = msgspec.structs.replace(dead, state=InstanceState.PENDING, not_before=NOW)
    row = view_instance_usage(waiting, None)
    assert row.tree is not None and (row.tree.fds, row.tree.fds_max) == (None, 4)
    (web,) = view_apps([*rows(True), row], ())
    assert (web.trees.fds, web.rss_bytes, web.cpu_user_s) == (3, MIB, 3.5)

"""Usage of whole trees through a real cluster: exact where a program knows it itself, kept over
a restart of the worker and after death."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corps.errors import Invalid, NotFound
from corps.model.view import AuditView, InstanceView, TreeView
from tests.support import compiled, usage
from tests.support.cluster import Cluster
from tests.support.waiting import until

SAMPLE_S = "0.1"
MIB = 1 << 20


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker that samples often, and the programs that know what they use."""
    directory = tmp_path_factory.mktemp("sampled")
    made = Cluster(directory)
    try:
        made.start_master()
        made.start_worker("w1", "--sample", SAMPLE_S)
        made.wait_state(w1="ready")
        for name, source in (
            ("allocate", usage.ALLOCATE),
            ("open50", usage.OPEN_50),
            ("write10", usage.WRITE_10_MB),
            ("burn", usage.BURN),
        ):
            made.copy(compiled.compile_c(directory / "c", name, source))
        made.copy("/bin/sleep")
        yield made
    finally:
        made.end()


def ready(cluster: Cluster, name: str, *args: str) -> InstanceView:
    instance = cluster.launch_one(name, *args)
    until(lambda: "ready" in cluster.log_of(instance.id))
    return instance


def tree(cluster: Cluster, id: str) -> TreeView:
    """As its worker measures it now."""
    (row,) = cluster.client.usage_by_instance((id,))
    assert row.tree is not None
    return row.tree


def run(cluster: Cluster, id: str) -> AuditView:
    """The last run of an instance, with its series."""
    rows = cluster.client.audit((id,), with_series=True)
    return [row for row in rows if row.kind == "run"][-1]


def samples(cluster: Cluster, id: str) -> int:
    return len(run(cluster, id).samples or ())


def work(cluster: Cluster, id: str) -> Path:
    return cluster.settings.worker_dir("w1") / "instances" / id / "work"


def test_a_hundred_mebibytes_are_seen_while_it_lives_and_after_its_death(sampled: Cluster) -> None:
    instance = ready(sampled, "allocate", "100")
    until(lambda: samples(sampled, instance.id) >= 2)
    now = tree(sampled, instance.id)
    assert now.rss_bytes is not None and 100 * MIB <= now.rss_bytes <= 108 * MIB
    assert (now.processes, now.threads) == (1, 1)
    sampled.client.kill((instance.id,))
    (row,) = sampled.client.usage_by_instance((instance.id,))
    assert (row.state, row.max_rss_source) == ("dead", "wait4")
    assert row.tree is not None and row.tree.rss_bytes is None
    assert row.max_rss_bytes is not None and row.max_rss_bytes >= 100 * MIB
    assert 100 * MIB <= row.tree.rss_peak_bytes <= 108 * MIB
    dead = run(sampled, instance.id)
    assert dead.samples is not None and len(dead.samples) >= 2
    assert max(sample.rss_max_bytes for sample in dead.samples) >= 100 * MIB


@pytest.mark.parametrize("how", ["waited", "ignored", "orphan"])
def test_the_cpu_of_a_grandchild_is_what_it_says_itself_also_when_it_is_gone(
    sampled: Cluster, how: str
) -> None:
    instance = sampled.launch_one("burn", how)
    until(lambda: "burnt" in sampled.log_of(instance.id))
    burnt_s = float(sampled.log_of(instance.id).partition("burnt ")[2].split()[0])
    seen = until(lambda: _counted(tree(sampled, instance.id), burnt_s))
    assert seen is not None
    assert burnt_s - 0.05 <= seen.cpu_user_s + seen.cpu_system_s <= burnt_s + 0.5
    assert seen.processes == (2 if how == "orphan" else 3)
    (work(sampled, instance.id) / "go").touch()
    until(lambda: tree(sampled, instance.id).processes == (2 if how == "ignored" else 1))
    gone = tree(sampled, instance.id)
    assert gone.cpu_user_s >= seen.cpu_user_s and gone.cpu_system_s >= seen.cpu_system_s
    sampled.client.kill((instance.id,))
    (row,) = sampled.client.usage_by_instance((instance.id,))
    assert row.tree is not None
    assert burnt_s - 0.05 <= row.tree.cpu_user_s + row.tree.cpu_system_s <= burnt_s + 0.5


def _counted(tree: TreeView, burnt_s: float) -> TreeView | None:
    return tree if tree.cpu_user_s + tree.cpu_system_s >= burnt_s - 0.05 else None


def test_fifty_descriptors_are_fifty(sampled: Cluster) -> None:
    instance = ready(sampled, "open50")
    assert tree(sampled, instance.id).fds == 53  # and stdin, stdout, stderr
    sampled.client.kill((instance.id,))
    (row,) = sampled.client.usage_by_instance((instance.id,))
    assert row.tree is not None and (row.tree.fds, row.tree.fds_max) == (None, 53)


def test_ten_megabytes_written_are_ten(sampled: Cluster) -> None:
    instance = ready(sampled, "write10")
    # A tree that was measured a moment ago is not measured anew: that may have been in between.
    until(lambda: (tree(sampled, instance.id).io_write_bytes or 0) >= 10_000_000)
    written = tree(sampled, instance.id).io_write_bytes
    assert written is not None  # what the child wrote before exec, a few bytes, counts as well
    assert 0 <= written - 10_000_000 - len("ready\n") < 100
    until(lambda: samples(sampled, instance.id) >= 1)
    sampled.client.kill((instance.id,))
    (row,) = sampled.client.usage_by_instance((instance.id,))
    assert row.tree is not None and row.tree.io_write_bytes == written


def test_what_died_before_its_first_sample_has_no_series_and_nothing_is_zero(
    sampled: Cluster, tmp_path: Path
) -> None:
    sampled.kill("w1")
    sampled.start_worker("w1", "--sample", "3600")
    sampled.wait_state(w1="ready")
    try:
        instance = sampled.launch_one("sleep", "0")
        sampled.wait_dead(instance.id)
        row = run(sampled, instance.id)
        assert (row.tree, row.samples) == (None, ())
        assert row.usage is not None and row.usage.cpu_user_s is not None
    finally:
        sampled.kill("w1")
        sampled.start_worker("w1", "--sample", SAMPLE_S)
        sampled.wait_state(w1="ready")


def test_a_restart_of_the_worker_keeps_the_series_and_a_removal_deletes_it(
    sampled: Cluster,
) -> None:
    instance = ready(sampled, "allocate", "20")
    until(lambda: samples(sampled, instance.id) >= 3)
    before = run(sampled, instance.id)
    sampled.kill("w1")
    sampled.wait_state(w1="lost")
    assert run(sampled, instance.id).samples is None  # nobody can say
    sampled.start_worker("w1", "--sample", SAMPLE_S)
    sampled.wait_state(w1="ready")
    assert before.samples is not None
    count = len(before.samples)
    until(lambda: samples(sampled, instance.id) >= count + 3)
    after = run(sampled, instance.id)
    assert after.samples is not None and after.tree is not None
    assert after.samples[: count - 1] == before.samples[:-1]
    assert after.tree.samples >= count + 3
    times = [sample.at for sample in after.samples]
    assert times == sorted(set(times))
    sampled.client.kill((instance.id,))
    dead = run(sampled, instance.id)
    assert dead.samples is not None and dead.samples[: len(after.samples)] == after.samples
    file = work(sampled, instance.id).parent / "1.usage"
    assert file.exists()
    sampled.client.remove((instance.id,))
    until(lambda: not file.exists())


def test_one_that_ends_while_no_worker_looks_keeps_what_it_was_measured_to_use(
    sampled: Cluster,
) -> None:
    instance = ready(sampled, "allocate", "30")
    until(lambda: samples(sampled, instance.id) >= 2)
    sampled.kill("w1")
    assert instance.pid is not None
    _end(instance.pid)
    sampled.start_worker("w1", "--sample", SAMPLE_S)
    sampled.wait_state(w1="ready")
    sampled.wait_dead(instance.id)
    row = run(sampled, instance.id)
    assert row.tree is not None and 30 * MIB <= row.tree.rss_peak_bytes <= 38 * MIB
    assert row.tree.samples >= 2


def test_usage_by_app_and_instance_and_the_keys_by_worker_stay(sampled: Cluster) -> None:
    first, second = ready(sampled, "open50"), ready(sampled, "open50")
    (app,) = _json(sampled, "usage", "open50", "--by", "app")
    assert app["instances_live"] >= 2 and app["trees"]["fds"] >= 106
    rows = _json(sampled, "usage", "open50", "--by", "instance")
    assert {first.id, second.id} <= {row["id"] for row in rows}
    (worker,) = _json(sampled, "usage")
    keys = "worker children_live children_dead cpu_user_s cpu_system_s max_rss_bytes rss_bytes"
    assert set(keys.split()) | {"instances"} <= worker.keys()
    text = sampled.corps("usage", "--by", "instance", "-o", "csv", first.id).stdout
    (row,) = csv.DictReader(text.splitlines())
    assert (row["id"], row["tree_fds"], row["state"]) == (first.id, "53", "running")
    assert "53" in sampled.corps("usage", first.id).stdout
    sampled.client.kill(("open50",))


def test_audit_has_the_series_of_named_targets_and_draws_it(sampled: Cluster) -> None:
    instance = ready(sampled, "allocate", "40")
    until(lambda: samples(sampled, instance.id) >= 3)
    named = _json(sampled, "audit", instance.id)[-1]
    keys = "at cpu_percent rss_bytes threads fds io_read_bytes io_write_bytes processes"
    assert named["samples"][-1].keys() >= set(keys.split())
    assert all(row["samples"] is None for row in _json(sampled, "audit"))
    assert any(row["samples"] for row in _json(sampled, "audit", "--series"))
    plot = sampled.corps("audit", instance.id, "--plot").stdout
    assert "RSS: " in plot and f"{instance.id}#1 on w1: running" in plot
    text = sampled.corps("audit", instance.id, "--series", "-o", "csv").stdout
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) >= 3 and int(rows[-1]["rss_max_bytes"]) >= 40 * MIB
    launched = sampled.corps("audit", instance.id, "-o", "csv").stdout.splitlines()
    assert launched[0].startswith("at,kind,subject,attempt,digest,worker,by,command,seconds,send_s")
    sampled.client.kill((instance.id,))


def test_versions_of_an_app_are_compared(sampled: Cluster, tmp_path: Path) -> None:
    for mebibytes in (20, 60):
        source = usage.ALLOCATE.replace("ready", f"ready with {mebibytes}")
        sampled.copy(compiled.compile_c(tmp_path, "grows", source))
        ids = [ready(sampled, "grows", str(mebibytes)).id for _ in range(3)]
        for id in ids:
            until(partial(samples, sampled, id))
        sampled.client.kill(ids[:2])  # one of each goes on: it counts as well
    comparison = sampled.client.compare(("grows",))
    old, new = comparison.versions
    assert [(one.runs, one.runs_live, one.failures) for one in (old, new)] == [(3, 1, 0)] * 2
    assert old.rss_peak_bytes is not None and new.rss_peak_bytes is not None
    assert old.rss_peak_bytes < 30 * MIB < 60 * MIB <= new.rss_peak_bytes
    assert f"{new.version} uses " in comparison.sentences[0]
    assert f"% more memory than {old.version} (median peak 6" in comparison.sentences[0]
    pair = sampled.client.compare((f"grows@{new.digest[:12]}", f"grows@{old.digest[:12]}"))
    assert pair.sentences[0].startswith(f"{old.version} uses ") and "% less" in pair.sentences[0]
    shown = sampled.corps("audit", "--compare", "grows").stdout
    assert comparison.sentences[0] in shown and "PEAK RSS" in shown
    assert _json(sampled, "audit", "--compare", "grows")["app"] == "grows"
    sampled.client.kill(("grows",))


def test_what_cannot_be_compared_is_refused_with_the_reason(sampled: Cluster) -> None:
    with pytest.raises(NotFound, match="no app 'nobody'"):
        sampled.client.compare(("nobody",))
    with pytest.raises(NotFound, match="no runs of burn@ffff"):
        sampled.client.compare(("burn@ffff", "burn@eeee"))
    for versions in ((), ("burn@ffff",), ("burn", "sleep"), ("a@ffff", "b@ffff"), ("a",) * 3):
        with pytest.raises(Invalid):
            sampled.client.compare(versions)
    for words in (["--compare"], ["--plot", "--series"], ["--plot", "-o", "json"]):
        assert sampled.corps("audit", *words, check=False).returncode == 2


def test_a_worker_that_does_not_sample_has_no_trees(sampled: Cluster) -> None:
    sampled.start_worker("w2", "--sample", "0")
    sampled.wait_state(w2="ready")
    try:
        instance = sampled.launch_one("sleep", "1000", on="w2")
        (row,) = sampled.client.usage_by_instance((instance.id,))
        assert row.tree is None and row.rss_bytes
        assert run(sampled, instance.id).samples == ()
        sampled.client.kill((instance.id,))
    finally:
        sampled.kill("w2")
    refused = sampled.corps("worker", "--master", "x:1", "--sample", "0.01", check=False)
    assert refused.returncode != 0 and "sample" in refused.stderr


def _json(cluster: Cluster, *words: str) -> Any:
    return json.loads(cluster.corps(*words, "-o", "json").stdout)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)

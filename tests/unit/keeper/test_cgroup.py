"""Where groups can be made, and which files hold which limit: from texts alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corps.keeper.cgroup import Groups, evidence, homes, members, remove, settings

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID_OWN = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/user.slice/x.scope\n"
UNIFIED = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_our_place_in_each_hierarchy_is_found() -> None:
    assert homes(HYBRID, HYBRID_OWN) == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory/a/b",
        "": "/sys/fs/cgroup/uni fied/user.slice/x.scope",
    }
    assert homes(UNIFIED, "0::/system.slice/corps.service\n") == {
        "": "/sys/fs/cgroup/system.slice/corps.service"
    }


def test_in_a_container_only_what_is_mounted_is_ours() -> None:
    inner = "29 23 0:26 /docker/12 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
    assert homes(inner, "0::/docker/12/app\n") == {"": "/sys/fs/cgroup/app"}
    assert homes(inner, "0::/docker/12\n") == {"": "/sys/fs/cgroup"}
    assert homes(inner, "0::/docker/123\n") == {}, "not below what is mounted here"
    assert homes(inner, "0::/../other\n") == {}
    assert homes("", HYBRID_OWN) == {}
    assert homes(UNIFIED, "") == {}


@pytest.mark.parametrize(
    ("version", "limit", "value", "expected"),
    [
        (2, "memory_bytes", 1 << 20, [("memory.max", "1048576"), ("memory.swap.max", "0")]),
        (2, "cpus", 0.2, [("cpu.max", "20000 100000")]),
        (2, "cpus", 0.001, [("cpu.max", "1000 100000")]),
        (2, "pids", 9, [("pids.max", "9")]),
        (1, "pids", 9, [("pids.max", "9")]),
        (1, "cpus", 2.5, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "250000")]),
        (
            1,
            "memory_bytes",
            4096,
            [("memory.limit_in_bytes", "4096"), ("memory.memsw.limit_in_bytes", "4096")],
        ),
    ],
)
def test_each_limit_is_a_text_in_a_file(
    version: int, limit: str, value: float, expected: list[tuple[str, str]]
) -> None:
    assert settings(version, limit, value) == expected


def test_what_the_kernel_counted_is_read(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    for path in (two, one):
        path.mkdir()
    (two / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n")
    (two / "pids.events").write_text("max 3\n")
    assert evidence([str(two)]) == {"oom_kills": 1, "limit_hits": {"memory": 7, "pids": 3}}
    (one / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    (one / "memory.failcnt").write_text("12\n")
    assert evidence([str(one)]) == {"oom_kills": 4, "limit_hits": {"memory": 12}}
    assert evidence([str(tmp_path / "gone")]) == {}


def test_all_groups_within_a_group_are_looked_into(tmp_path: Path) -> None:
    """An app may have groups of its own: it may be a keeper itself."""
    inner = tmp_path / "app" / "inner" / "most"
    inner.mkdir(parents=True)
    for path, pids in ((inner, "7\n8\n"), (inner.parent, ""), (tmp_path / "app", "5\n")):
        (path / "cgroup.procs").write_text(pids)
    assert sorted(members(str(tmp_path / "app"))) == [5, 7, 8]
    assert members(str(tmp_path / "gone")) == []


def test_a_group_is_removed_with_all_in_it_and_one_that_is_not_empty_stays(tmp_path: Path) -> None:
    (tmp_path / "app" / "inner").mkdir(parents=True)
    (tmp_path / "busy" / "inner").mkdir(parents=True)
    (tmp_path / "busy" / "inner" / "x").write_text("")
    assert remove([str(tmp_path / "app"), str(tmp_path / "gone")])
    assert not remove([str(tmp_path / "busy")])
    assert os.listdir(tmp_path) == ["busy"]


def test_controllers_of_v2_are_enabled_where_the_kernel_offers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of plain files stands for a kernel that has them: what is written where."""
    state, own = tmp_path / "state", tmp_path / "own"
    state.mkdir()
    monkeypatch.chdir(state)
    groups = Groups({"": str(own)}, has_trees=False, has_limits=True)
    groups.base = str(own / groups.name)
    limited = own / f"{groups.name}-limited"
    limited.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpu memory\n")
    for path in (own, limited):
        (path / "cgroup.subtree_control").write_text("")
    wanted = {"memory_bytes": 1 << 20, "cpus": None, "pids": None, "watched": ()}
    assert groups.lacks(wanted) is None
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    assert (limited / "cgroup.subtree_control").read_text() == "+memory"
    lacking = groups.lacks(wanted | {"pids": 3})
    assert lacking is not None and "limit pids" in lacking
    assert groups.lacks(wanted | {"pids": 3, "watched": ("pids",)}) is None

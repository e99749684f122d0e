"""An app that turns on its host, under a user of its own: it gets at nothing of the daemons' nor of
other apps'."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from corps.model.terms import Terms
from tests.support import programs
from tests.support.cluster import Cluster
from tests.support.waiting import until

INTRUDER, VICTIM = Terms(user="4711"), Terms(user="4712")  # of no account: numbers are enough
REFUSED = {"EACCES", "EPERM"}

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def intruder(attacked: Cluster) -> Path:
    program = programs.build("intruder", attacked.directory / "programs")
    attacked.copy(program)
    attacked.copy("/bin/sleep")
    return program


def outcomes(attacked: Cluster, words: list[str], terms: Terms = INTRUDER) -> dict[str, str]:
    """What came of each attempt."""
    dead = attacked.wait_dead(attacked.launch_one("intruder", *words, on="w1", terms=terms).id)
    assert dead.death is not None and dead.death.message == "exited 0"
    lines = attacked.log_of(dead.id).splitlines()
    return dict(tuple(line.rsplit(" ", 1)) for line in lines)  # type: ignore[misc]  # of pairs


def test_it_gets_at_no_file_of_the_daemons(attacked: Cluster, intruder: Path) -> None:
    state = attacked.settings.state_dir
    attacked.launch_one("sleep", "1000", on="w1", terms=VICTIM)  # opens the way for such users
    files = [path for path in state.rglob("*") if path.is_file() or path.is_dir()]
    trees = [path for path in files if "trees" in path.parts]
    private = [path for path in files if "trees" not in path.parts and "work" not in path.parts]
    kinds = {path.name for path in private}
    assert {"state.db", "journal", "worker.json", "1.stdout", "blobs", "lock"} <= kinds
    words = [f"{what}:{path}" for path in private for what in ("read", "write", "rename", "link")]
    words += [f"list:{path}" for path in private if path.is_dir()]
    words += [f"write:{path}" for path in trees] + [f"rename:{path}" for path in trees]
    control = subprocess.run([intruder, *[f"read:{path}" for path in private]], stdout=-1)
    assert b" ok" in control.stdout, "it could, if it were root"
    got = outcomes(attacked, words)
    assert set(got) == set(words)
    allowed = {word: said for word, said in got.items() if said not in REFUSED}  # nor written to
    assert all(said == "EISDIR" for said in allowed.values()), allowed


def test_it_reaches_no_socket_of_the_daemons(attacked: Cluster, intruder: Path) -> None:
    sockets = [path for path in attacked.settings.state_dir.rglob("*") if path.is_socket()]
    assert {"api.sock", "bulk.sock", "keeper.sock"} <= {path.name for path in sockets}
    got = outcomes(attacked, [f"connect:{path}" for path in sockets])
    assert set(got.values()) <= REFUSED, got


def test_it_touches_no_process_but_its_own(attacked: Cluster, intruder: Path) -> None:
    victim = attacked.launch_one("sleep", "1000", on="w1", terms=VICTIM)
    keeper = attacked.keeper_pid("w1")
    pids = [keeper, attacked.pid("master"), attacked.pid("w1"), attacked.pid("w2"), victim.pid]
    words = [f"{what}:{pid}" for pid in pids for what in ("attach", "signal", "memory")]
    words += [f"list:/proc/{pid}/fd" for pid in pids]
    words += [f"read:/proc/{pid}/{name}" for pid in pids for name in ("environ", "mem", "maps")]
    words += [f"list:/proc/{pid}/root" for pid in pids] + ["root:0"]
    got = outcomes(attacked, words)
    assert set(got.values()) <= REFUSED, {word: how for word, how in got.items() if how == "ok"}
    attacked.client.kill((victim.id,))


def test_it_is_born_with_three_descriptors_and_no_word_of_the_daemons(
    attacked: Cluster, intruder: Path
) -> None:
    assert outcomes(attacked, ["fds:"]) == {"fds:": "ok"}
    running = attacked.launch_one("sleep", "1000", on="w1", terms=INTRUDER)
    environment = Path(f"/proc/{running.pid}/environ").read_bytes().decode().split("\0")
    names = {line.partition("=")[0] for line in environment if line}
    mine = {"PATH", "HOME", "LANG", "USER", "LOGNAME", "CORPS_TREE"}
    mine |= {f"CORPS_{word}" for word in ("APP", "INSTANCE", "ATTEMPT", "ATTEMPT_NUMBER", "WORKER")}
    assert names <= mine, names - mine
    attacked.client.kill((running.id,))


def test_a_link_it_leaves_behind_leads_nobody_out(attacked: Cluster, intruder: Path) -> None:
    """`rm` takes its directory, and nothing that it has pointed to."""
    outside = attacked.directory / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    running = attacked.launch_one("sleep", "1000", on="w1", terms=INTRUDER)
    work = Path(os.readlink(f"/proc/{running.pid}/cwd"))
    (work / "away").symlink_to(outside)
    (work / "deep").mkdir()
    (work / "deep" / "file").symlink_to(outside / "kept")
    os.link(outside / "kept", work / "hard")
    attacked.client.kill((running.id,))
    attacked.client.remove((running.id,))
    until(lambda: not work.exists())
    assert (outside / "kept").read_text() == "kept"

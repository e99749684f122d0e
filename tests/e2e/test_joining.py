"""Workers that joined by a token: what they may, for how long, and what ends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corps.model.identity import Identity
from corps.trust.credentials import Credentials
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import until

DAY_S = 86_400.0
ROTATED_S = 90.0
SLEEP = shutil.which("sleep") or ""


@pytest.fixture
def networked(tmp_path: Path) -> Iterator[Cluster]:
    """A master, and nobody yet."""
    with cluster(tmp_path) as made:
        yield made


def join(made: Cluster, name: str) -> None:
    """Paste the line that the master's operator was given, and run the worker."""
    line = made.corps("token", "create", "--name", name).stdout.split()
    assert line[:2] == ["corps", "join"]
    made.corps(*line[1:], "--no-run")
    made.start_worker(name)


def identity(made: Cluster, name: str) -> Identity:
    return Credentials(made.settings.worker_dir(name) / "trust").identity()


def ca(made: Cluster) -> dict[str, Any]:
    (row,) = json.loads(made.corps("ca", "status", "-o", "json").stdout)
    assert isinstance(row, dict)
    return row


def test_a_pasted_line_makes_a_worker(networked: Cluster) -> None:
    join(networked, "w1")
    networked.wait_state(w1="ready")
    networked.copy(SLEEP)
    assert networked.launch_one("sleep", "60").state == "running"
    deeds = networked.corps("audit", "trail", "-o", "json").stdout
    assert '"join"' in deeds
    token = json.loads(networked.corps("token", "list", "-o", "json").stdout)[0]
    assert (token["joined"], token["uses_left"]) == (["w1"], 0)


def test_ps_does_not_show_the_token_as_long_as_the_worker_runs(networked: Cluster) -> None:
    words = networked.corps("token", "create", "--uses", "20").stdout.split()[1:]
    token = words[-1]
    command = [sys.executable, "-m", "corps.cli.main", "--dir", networked.settings.dir]
    with subprocess.Popen([*command, *words, "--name", "w5"], stderr=subprocess.DEVNULL) as daemon:
        networked.wait_state(w5="ready")
        said = Path(f"/proc/{daemon.pid}/cmdline").read_text().split("\0")
        networked.corps("worker", "revoke", "w5")
    assert daemon.returncode == 6
    assert said[-5:] == ["--token", "x" * len(token), "--name", "w5", ""]


def test_a_revoked_worker_is_cut_off_for_good_and_its_apps_go_on(networked: Cluster) -> None:
    join(networked, "w1")
    networked.wait_state(w1="ready")
    networked.copy(SLEEP)
    app = networked.launch_one("sleep", "600")
    assert app.pid is not None
    networked.corps("worker", "revoke", "w1")
    until(lambda: networked.returncode("w1") is not None)
    assert networked.returncode("w1") == 6
    assert "was revoked by" in networked.log("w1")
    os.kill(app.pid, 0)
    networked.wait_state(w1="lost")
    assert "its certificate was revoked by " in networked.corps("workers", "-o", "wide").stdout

    networked.start_worker("w1")
    until(lambda: networked.returncode("w1") is not None)
    assert networked.returncode("w1") == 6, "nor does it come back"

    join(networked, "w1")
    networked.wait_state(w1="ready")
    assert networked.get(app.id).pid == app.pid
    assert networked.get(app.id).state == "running"


def test_after_a_long_absence_a_worker_renews_and_comes_back(networked: Cluster) -> None:
    join(networked, "w1")
    networked.wait_state(w1="ready")
    first = identity(networked, "w1")
    networked.kill("w1")
    long_ago = time.time() - 20 * DAY_S
    os.utime(networked.settings.worker_dir("w1") / "trust" / "cert.pem", (long_ago, long_ago))
    networked.start_worker("w1")
    until(lambda: identity(networked, "w1").serial != first.serial)
    networked.wait_state(w1="ready")
    assert identity(networked, "w1").key == first.key


def test_the_ca_is_rotated_under_workers_that_stay_connected(networked: Cluster) -> None:
    for name in ("w1", "w2"):
        join(networked, name)
    networked.wait_state(w1="ready", w2="ready")
    networked.kill("w2")
    before = ca(networked)
    assert (before["stage"], before["lagging"]) == ("steady", [])
    networked.corps("ca", "rotate", "-y")
    until(lambda: ca(networked)["lagging"] == ["w2"], ROTATED_S)
    assert ca(networked)["stage"] == "spreading"
    assert ca(networked)["pin"] == before["pin"], "nobody is signed out while one lags"

    networked.start_worker("w2")
    until(lambda: ca(networked)["stage"] == "steady", ROTATED_S)
    after = ca(networked)
    assert after["pin"] != before["pin"]
    assert after["trusted"] == [after["pin"]]
    assert networked.log("w1").count("the connection to the master ended") == 0

    networked.kill("master")
    networked.start_master()
    join(networked, "w3")
    networked.wait_state(w1="ready", w2="ready", w3="ready")


def test_somebody_elses_master_is_named_and_waited_out(
    networked: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    join(networked, "w1")
    networked.wait_state(w1="ready")
    networked.kill("w1")
    with cluster(tmp_path_factory.mktemp("other")) as other:
        join(other, "w9")  # so that it has a CA
        networked.start_worker("w1", master=other.address)
        until(lambda: "E_CA_PIN" in networked.log("w1"))
        assert networked.returncode("w1") is None
        assert [worker.name for worker in other.client.workers()] in ([], ["w9"])

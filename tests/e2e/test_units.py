"""The units of `corps systemd`, as systemd itself judges them; and what daemons tell it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster

UNITS = Path("etc/systemd/system")
EXPOSURE_MAX = {"corps-master": 2.0, "corps-worker": 2.0, "corps-keeper": 5.0}


def corps(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corps.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def installed(root: Path, what: str, *words: str) -> Path:
    done = corps("systemd", "install", what, "--root", str(root), "--", *words)
    assert done.returncode == 0, done.stderr
    return root / UNITS


@pytest.mark.parametrize("unit", EXPOSURE_MAX)
def test_each_unit_is_sound_and_its_daemon_shut_in(tmp_path: Path, unit: str) -> None:
    what = "master" if unit == "corps-master" else "worker"
    path = installed(tmp_path, what, "--listen", "10.0.0.1:7077") / f"{unit}.service"
    said = analyze("verify", "--man=no", str(path))
    known = [line for line in said.splitlines() if "DelegateSubgroup" not in line]  # since 254
    assert not [line for line in known if str(path.parent) in line]
    judged = analyze("security", "--offline=true", str(path))
    (level,) = re.findall(rf"exposure level for {unit}.service: ([0-9.]+)", judged)
    assert float(level) <= EXPOSURE_MAX[unit]


def analyze(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout + done.stderr


def test_words_reach_the_daemon_as_they_were_said(tmp_path: Path) -> None:
    units = installed(tmp_path, "worker", "--label", 'a=b c$HOME%h"\\', "--name", "w1")
    (line,) = re.findall("^ExecStart=.*", (units / "corps-worker.service").read_text(), re.M)
    assert line.endswith(r' --label "a=b c$$HOME%%h\"\\" --name w1')
    keeper = (units / "corps-keeper.service").read_text()
    assert "--label" not in keeper
    refused = corps("systemd", "print", "worker", "--", "--name", "x\nUser=root")
    assert refused.returncode == 3
    assert "has a character that no unit can have" in refused.stderr


def test_install_says_how_to_speak_to_the_master(tmp_path: Path) -> None:
    done = corps("systemd", "install", "master", "--root", str(tmp_path))
    unit = (tmp_path / UNITS / "corps-master.service").read_text()
    (state,) = [line for line in unit.splitlines() if line.startswith("Environment=CORPS_DIR=")]
    assert f"--dir {state.rpartition('=')[2]} " in done.stderr


def test_print_shows_what_install_writes(tmp_path: Path) -> None:
    units = installed(tmp_path, "master", "--listen", "10.0.0.1:7077")
    shown = corps("systemd", "print", "master", "--", "--listen", "10.0.0.1:7077").stdout
    assert shown == (units / "corps-master.service").read_text()


def test_what_somebody_changed_is_not_overwritten(tmp_path: Path) -> None:
    path = installed(tmp_path, "master") / "corps-master.service"
    path.write_text("[Service]\n")
    refused = corps("systemd", "install", "master", "--root", str(tmp_path))
    assert refused.returncode == 5
    assert "say --replace" in refused.stderr
    assert path.read_text() == "[Service]\n"
    done = corps("systemd", "install", "master", "--root", str(tmp_path), "--replace")
    assert done.returncode == 0
    assert "Type=notify" in path.read_text()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What listens in place of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(60)
        listener.bind(str(tmp_path / "notify"))
        yield listener


def test_daemons_say_when_they_are_ready_and_that_they_live(
    tmp_path: Path, manager: socket.socket
) -> None:
    prefix = ["env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", "WATCHDOG_USEC=300000"]
    made = Cluster(tmp_path)
    try:
        made.start_master(prefix=prefix)
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", *[b"WATCHDOG=1"] * 2]
        made.start_worker("w1", prefix=prefix)
        said: list[bytes] = []
        while said.count(b"READY=1") < 1 or said[-2:] != [b"WATCHDOG=1"] * 2:
            said.append(manager.recv(100))
        made.wait_state(w1="ready")
    finally:
        made.end()

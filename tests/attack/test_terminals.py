"""Odd terminals and odd surroundings: every command says what it has, and nothing breaks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, cluster
from tests.unit.cli.terminal import Terminal

ODD = {
    "no locale": {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "no terminal type": {"TERM": "dumb"},
    "an unknown terminal type": {"TERM": "\x1b[31m"},
    "no colour": {"NO_COLOR": "1"},
    "no home": {"HOME": "/nonexistent", "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""},
    "columns that are none": {"COLUMNS": "many", "LINES": "-1"},
    "a time zone that is none": {"TZ": "Nowhere/../../etc/passwd"},
}
COMMANDS = (["workers"], ["ps", "-a"], ["why", "sh"], ["logs", "sh"], ["events"], ["--help"])
ACCENTED = "naïve 東京 \u202e"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With text that not every terminal can show."""
    with cluster(tmp_path_factory.mktemp("named"), "w1") as made:
        made.copy("/bin/sh")
        made.wait_dead(made.launch_one("sh", "-c", f"echo '{ACCENTED}'; exit 3").id)
        yield made


@pytest.mark.parametrize("more", ODD.values(), ids=ODD.keys())
def test_no_surroundings_break_a_command(named: Cluster, more: dict[str, str]) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("LANG", "LC_ALL")}
    for words in COMMANDS:
        done = subprocess.run(
            named.command(*words), env=env | more, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout and b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stdout, "no colours where there is no terminal"


@pytest.mark.parametrize("columns", [1, 20])
def test_a_narrow_terminal_gets_all_the_same(named: Cluster, columns: int) -> None:
    env = {**os.environ, "NO_COLOR": "1"}
    for words in COMMANDS[:4]:
        with Terminal(named.command(*words), env, columns=columns, rows=2) as terminal:
            assert terminal.wait() == 0, terminal.seen
        assert b"Traceback" not in terminal.seen


def test_a_closed_stdout_ends_it_quietly(named: Cluster) -> None:
    for words in (["events"], ["logs", "sh"], ["why", "sh"]):
        reads, writes = os.pipe()
        os.close(reads)
        try:
            done = subprocess.run(
                named.command(*words), stdout=writes, stderr=subprocess.PIPE, timeout=60
            )
        finally:
            os.close(writes)
        assert (done.returncode, done.stderr) == (141, b"")

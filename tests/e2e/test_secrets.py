"""Secrets through the whole of corps: to the app that names them, and to nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.model.secret import AsFile
from corps.model.terms import Terms
from tests.support.cluster import Cluster
from tests.support.opened import opened_directory
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

VALUE = "hunter2-5f4dcc3b5aa765d61d8327deb882cf99"
NAMED = Terms(secrets=(AsFile(name="db", file="db"),))
SCRIPT = "#!/bin/bash\n"
APPS = {
    # what it was given, by digest only; then it goes on
    "digests": SCRIPT
    + """
{ sha256sum < "$CORPS_SECRET_DB_FILE"; sha256sum < "$CORPS_SECRETS/other"; sha256sum <&9
  printf %s "$DB" | sha256sum; } | cut -c -64
exec sleep 1000
""",
    "teller": SCRIPT + 'echo "cannot log in as root:$(cat "$CORPS_SECRET_DB_FILE")" >&2; exit 3\n',
    "version": SCRIPT + 'sha256sum < "$CORPS_SECRETS/db" | cut -c -64; exec sleep 1000\n',
}


@pytest.fixture(scope="module")
def safe() -> Iterator[Cluster]:
    with opened_directory() as directory:
        made = Cluster(directory)
        try:
            made.start_master()
            made.start_worker("w1")
            made.wait_state(w1="ready")
            for name, text in APPS.items():
                path = directory / name
                path.write_text(text)
                path.chmod(0o755)
                made.copy(path)
            yield made
        finally:
            made.end()


def set_secret(
    cluster: Cluster, name: str, value: str, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        cluster.command("secret", "set", name),
        input=value,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def digest(value: str) -> str:
    done = subprocess.run(["sha256sum"], input=value, capture_output=True, text=True, check=True)
    return done.stdout[:64]


def lines_of(cluster: Cluster, id: str, count: int) -> list[str]:
    until(lambda: len(cluster.log_of(id).splitlines()) == count)
    return cluster.log_of(id).splitlines()


def test_an_app_has_what_it_names_and_nothing_else_has(safe: Cluster) -> None:
    set_secret(safe, "db", VALUE)
    words = ["--secret", "db", "--secret", "db=other", "--secret-fd", "db=9", "--secret-env"]
    refused = safe.corps("launch", "digests", *words, "DB=db", check=False)
    assert refused.returncode == 3 and "CORPS_SECRET_DB_FILE" in refused.stderr
    set_secret(safe, "other.one", VALUE)
    words = ["--secret", "db", "--secret", "other.one=other", "--secret-fd", "db=9", "--secret-env"]
    done = safe.corps("launch", "digests", "--user", "nobody", *words, "DB=db", "-o", "json")
    (row,) = json.loads(done.stdout)
    assert lines_of(safe, row["id"], 4) == [digest(VALUE)] * 4
    shown = [
        safe.corps(*command).stdout
        for command in (
            ("ps", "-o", "json"), ("ps", "-o", "wide"), ("why", row["id"]), ("events",),
            ("audit", "-o", "json"), ("secret", "list", "-o", "json"), ("secret", "list"),
        )
    ]  # fmt: skip
    assert "handed to w1: db (version 1), other.one (version 1)" in shown[2]
    (first, _) = json.loads(shown[5])
    assert (first["name"], first["version"], first["used_by"]) == ("db", 1, [row["id"]])
    files = [path for path in safe.directory.rglob("*") if path.is_file()]
    assert any(path.name == "state.db" for path in files)
    for text in (*shown, *(path.read_bytes().decode("latin-1") for path in files)):
        assert VALUE not in text
    assert (safe.settings.master_dir / "secrets.key").stat().st_mode & 0o777 == 0o600
    for pid in (*safe.pids(), safe.keeper_pid("w1"), row["pid"]):
        assert VALUE not in Path(f"/proc/{pid}/cmdline").read_text()
    refused = safe.corps("secret", "delete", "db", check=False)
    assert refused.returncode == 5 and f"'db' is named by '{row['id']}'" in refused.stderr
    safe.corps("kill", row["id"])
    safe.corps("secret", "delete", "db")
    refused = safe.corps("launch", "teller", "--secret", "db", check=False)
    assert refused.returncode == 4 and "no secret 'db'" in refused.stderr


def test_a_new_attempt_has_the_newest_version(safe: Cluster) -> None:
    set_secret(safe, "db", "first")
    done = safe.corps("launch", "version", "--secret", "db", "--restart", "always", "-o", "json")
    (row,) = json.loads(done.stdout)
    assert lines_of(safe, row["id"], 1) == [digest("first")]
    set_secret(safe, "db", "second")
    safe.corps("signal", "KILL", row["id"])
    until(lambda: safe.get(row["id"]).attempt == 2 and safe.get(row["id"]).state == "running")
    assert lines_of(safe, row["id"], 1) == [digest("second")]
    safe.corps("kill", row["id"])


def test_what_a_dying_app_says_of_a_secret_is_in_no_certificate(safe: Cluster) -> None:
    set_secret(safe, "db", VALUE + "\n")
    done = safe.corps("launch", "teller", "--secret", "db", "-o", "json")
    (row,) = json.loads(done.stdout)
    safe.wait_dead(row["id"])
    assert safe.log_of(row["id"], "stderr") == f"cannot log in as root:{VALUE}\n"
    told = safe.corps("why", row["id"]).stdout
    assert "cannot log in as root:[secret]" in told and VALUE not in told


def test_on_a_terminal_it_is_asked_for_twice_and_not_shown(safe: Cluster) -> None:
    command = safe.command("secret", "set", "typed")
    with Terminal(command, os.environ) as terminal:
        terminal.expect("value of typed:")
        terminal.send(f"{VALUE}\r")
        terminal.expect("once more:")
        terminal.send(f"{VALUE}x\r")
        assert terminal.wait() == 1
    assert b"two values: nothing is set" in terminal.seen
    with Terminal(command, os.environ) as again:
        again.expect("value of typed:")
        again.send(f"{VALUE}\r")
        again.expect("once more:")
        again.send(f"{VALUE}\r")
        assert again.wait() == 0
    assert VALUE.encode() not in terminal.seen + again.seen
    done = safe.corps("launch", "version", "--secret", "typed=db", "-o", "json")
    (row,) = json.loads(done.stdout)
    assert lines_of(safe, row["id"], 1) == [digest(VALUE)]
    safe.corps("kill", row["id"])


def test_bad_values_are_refused_and_not_repeated(safe: Cluster, tmp_path: Path) -> None:
    assert set_secret(safe, "db", "", check=False).returncode == 3
    large = set_secret(safe, "db", VALUE * 2_000, check=False)
    assert large.returncode == 3 and "from 1 to 49152" in large.stderr
    bad = set_secret(safe, "DB", VALUE, check=False)
    assert bad.returncode == 3
    assert VALUE not in large.stderr + bad.stderr
    gone = safe.corps("secret", "set", "db", "--file", str(tmp_path / "gone"), check=False)
    assert gone.returncode == 3 and "No such file" in gone.stderr


def test_nothing_is_left_of_an_app_whose_daemons_were_all_killed(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    set_secret(alone, "db", VALUE)
    row = alone.launch_one("sleep", "1000", terms=NAMED)
    assert row.pid is not None
    words = Path(f"/proc/{row.pid}/environ").read_text().split("\0")
    (place,) = [word.partition("=")[2] for word in words if word.startswith("CORPS_SECRETS=")]
    assert (Path(place) / "db").read_text() == VALUE
    keeper = alone.keeper_pid("w1")
    assert keeper is not None
    alone.kill("w1")
    os.kill(keeper, signal.SIGKILL)
    os.kill(row.pid, signal.SIGKILL)
    assert (Path(place) / "db").exists(), "nobody is there to take it away"
    alone.start_worker("w1")
    assert alone.wait_dead(row.id).death is not None
    until(lambda: not Path(place).exists())


def test_a_launch_without_the_key_fails_and_says_why(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.start_master()
        cluster.start_worker("w1")
        cluster.wait_state(w1="ready")
        cluster.copy("/bin/true")
        set_secret(cluster, "db", VALUE)
        cluster.kill("master")
        key = cluster.settings.master_dir / "secrets.key"
        key.chmod(0o640)
        cluster.start_master()
        cluster.wait_state(w1="ready")
        refused = cluster.corps("launch", "true", "--secret", "db", check=False)
        assert refused.returncode == 1 and "can be read by others (mode 0640)" in refused.stderr
        key.unlink()
        refused = cluster.corps("launch", "true", "--secret", "db", check=False)
        assert refused.returncode == 1 and "the key of all secrets is gone" in refused.stderr
        assert set_secret(cluster, "db", VALUE, check=False).returncode == 5
        cluster.corps("secret", "delete", "db")
        set_secret(cluster, "db", VALUE)
        cluster.corps("launch", "true", "--secret", "db")
    finally:
        cluster.end()

"""The daemons as services of a real systemd: what each may do, and that apps outlive them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.systemd import LOG, System, booted
from tests.support.waiting import until

DEADLINE_S = 60.0
NOBODY = 65_534
NONE = "0" * 16
FIVE = f"{0b111100001:016x}"  # chown, kill, setgid, setuid, setpcap
MASTER_DIR = ("--dir", "/var/lib/corps-master")
TOKEN = "/etc/corps/token"
DAEMONS = ("corps-master", "corps-worker", "corps-keeper")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with booted() as made:
        made.corps("systemd", "install", "master", "--", "--listen", "127.0.0.1:7077")
        words = ["--master", "127.0.0.1:7077", "--token-file", TOKEN]
        made.corps("systemd", "install", "worker", "--", *words)
        where = made.environment["PYTHONPATH"]
        for unit in DAEMONS:
            text = f"[Service]\nEnvironment=PYTHONPATH={where}\nStandardError=append:{LOG}\n"
            made.write(f"/etc/systemd/system/{unit}.service.d/test.conf", text)
        made.run("systemd-sysusers")
        made.run("systemctl", "daemon-reload")
        made.run("systemctl", "start", "corps-master")
        created = ("token", "create", "--name", "w1", "-o", "json")
        (token,) = json.loads(made.corps(*MASTER_DIR, *created).stdout)
        made.write(TOKEN, token["token"])
        made.run("chmod", "600", TOKEN)
        made.run("chown", "corps-worker", TOKEN)
        made.run("systemctl", "start", "corps-worker")
        until(lambda: is_ready(made), DEADLINE_S)
        made.corps(*MASTER_DIR, "copy", "/bin/sh", "--name", "sh")
        yield made


def is_ready(system: System) -> bool:
    rows = json.loads(system.corps(*MASTER_DIR, "workers", "-o", "json").stdout)
    return [(row["name"], row["state"]) for row in rows] == [("w1", "ready")]


def is_another(system: System, unit: str, before: int) -> bool:
    return system.main_pid(unit) not in (0, before)


def launch(system: System, script: str, *options: str) -> tuple[str, int]:
    """The instance and its pid."""
    words = ("launch", "sh", *options, "-o", "json", "--", "-c", script)
    (row,) = json.loads(system.corps(*MASTER_DIR, *words).stdout)
    return row["id"], row["pid"]


def state_of(system: System, id: str) -> str:
    (row,) = json.loads(system.corps(*MASTER_DIR, "ps", "-a", id, "-o", "json").stdout)
    return str(row["state"])


def test_each_daemon_has_what_it_needs_and_no_more(system: System) -> None:
    capabilities = {"corps-master": NONE, "corps-worker": NONE, "corps-keeper": FIVE}
    uids = set()
    for unit in DAEMONS:
        facts = system.facts(system.main_pid(unit))
        held = {facts[name] for name in ("CapPrm", "CapEff", "CapBnd")}
        assert held == {capabilities[unit]}, unit
        assert facts["NoNewPrivs"] == "1"
        uids |= set(facts["Uid"].split())
    assert len(uids) == len(DAEMONS)
    assert "0" not in uids


def test_an_app_runs_as_its_user_and_outlives_worker_and_keeper(system: System) -> None:
    id, pid = launch(system, "touch made; sleep 1000", "--user", "nobody")
    facts = system.facts(pid)
    assert facts["Uid"].split() == [str(NOBODY)] * 4
    assert (facts["CapBnd"], facts["NoNewPrivs"]) == (NONE, "1")
    for unit in ("corps-worker", "corps-keeper"):
        system.run("systemctl", "stop", unit)
        assert system.state(unit) == "inactive"
        assert system.facts(pid)["Uid"].split() == [str(NOBODY)] * 4
    system.run("systemctl", "start", "corps-worker")
    until(lambda: is_ready(system) and state_of(system, id) == "running", DEADLINE_S)
    assert system.facts(pid), "it is the same process"
    killed = system.corps(*MASTER_DIR, "kill", id).stdout
    assert "killed by SIGKILL" in killed
    assert not system.facts(pid)
    system.corps(*MASTER_DIR, "rm", id)
    files = f"/var/lib/corps-worker/workers/w1/instances/{id}"
    until(lambda: system.run("test", "-e", files, check=False).returncode == 1, DEADLINE_S)


def test_an_app_reaches_neither_the_keys_nor_the_journal_nor_the_keeper(system: System) -> None:
    wanted = (
        "cat /var/lib/corps-worker/workers/w1/trust/*",
        "cat /var/lib/corps-worker/workers/w1/worker.json",
        "ls /var/lib/corps-worker /var/lib/corps-worker/workers/w1",
        "ls /var/lib/corps-keeper",
        "cat /var/lib/corps-keeper/journal",
        "cat /etc/corps/token",
        f"kill -KILL {system.main_pid('corps-keeper')} {system.main_pid('corps-worker')}",
    )
    for words in wanted:
        id, _ = launch(system, f"test $(id -u) = {NOBODY} && ! {words}", "--user", "nobody")
        until(lambda id=id: state_of(system, id) == "dead", DEADLINE_S)  # type: ignore[misc]  # of a lambda
        death = json.loads(system.corps(*MASTER_DIR, "ps", "-a", id, "-o", "json").stdout)
        assert death[0]["death"]["code"] == 0, words
        said = system.corps(*MASTER_DIR, "logs", id, "--stream", "stdout").stdout
        assert said == "", words


def test_a_daemon_that_is_killed_is_started_again_and_finds_its_apps(system: System) -> None:
    id, pid = launch(system, "sleep 1000", "--user", "nobody")
    for unit in ("corps-keeper", "corps-worker"):
        before = system.main_pid(unit)
        system.run("kill", "-KILL", str(before))
        until(partial(is_another, system, unit, before))
    until(lambda: is_ready(system) and state_of(system, id) == "running", DEADLINE_S)
    assert system.facts(pid)
    system.corps(*MASTER_DIR, "kill", id)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "nothing runs as this worker itself: launch with --user"),
        (("--user", "root"), r"root is not allowed here \(allow_root\)"),
        (("--user", "corps-worker"), r"min_uid = 1000"),
        (("--user", "nobody:root"), "group 0 is not one of uid 65534"),
        (("--user", "nobody", "--new-privileges"), "--new-privileges is not allowed here"),
    ],
)
def test_without_a_policy_the_keeper_is_strict(
    system: System, options: tuple[str, ...], reason: str
) -> None:
    refused = system.corps(*MASTER_DIR, "launch", "sh", *options, "--", "-c", ":", check=False)
    assert refused.returncode == 1
    assert re.search(reason, refused.stderr)


def test_a_policy_names_who_runs_what_a_launch_gives_no_user(system: System) -> None:
    system.write("/etc/corps/worker-policy.toml", 'default_user = "games"\n')
    try:
        id, pid = launch(system, "sleep 1000")
        assert system.facts(pid)["Uid"].split() == ["5"] * 4
        system.corps(*MASTER_DIR, "kill", id)
    finally:
        system.run("rm", "/etc/corps/worker-policy.toml")

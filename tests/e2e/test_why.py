"""Death certificates and `why`: real deaths, and what an operator reads of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corps.core.story import LATE_S
from corps.errors import NotFound
from corps.model.terms import Restart
from corps.model.view import CertificateView
from corps.worker.oom import kills
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.compiled import compile_c
from tests.support.waiting import until

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
MEMORY_BYTES = 24 << 20
EAT = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Waits for SIGUSR1, then uses argv[1] MiB. */
static void go(int number) { (void)number; }
int main(int argc, char **argv) {
    long left = atol(argv[1]);
    signal(SIGUSR1, go);
    puts("ready"); fflush(stdout);
    pause();
    while (left-- > 0) {
        char *block = malloc(1 << 20);
        if (block == NULL) return 5;
        memset(block, 1, 1 << 20);
    }
    return 0;
}
"""
VERSIONED = "void greet(const char *name) { (void)name; }"
VERSIONS = "V%d { global: greet; };\n"


@pytest.fixture(scope="module")
def do(shared: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster where `do CODE` carries out what `sh -c` would."""
    script = tmp_path_factory.mktemp("do") / "do"
    script.write_text('#!/bin/sh\neval "$1"\n')
    script.chmod(0o755)
    shared.copy(script)
    return shared


def certificate(cluster: Cluster, id: str) -> CertificateView:
    (row,) = cluster.client.why((id,))
    return row.certificates[-1]


def dies(cluster: Cluster, artifact: str, *args: str, **fields: object) -> CertificateView:
    instance = cluster.launch_one(artifact, *args, **fields)
    cluster.wait_dead(instance.id)
    return certificate(cluster, instance.id)


def test_an_exit_has_a_certificate_with_all_there_is_to_know(do: Cluster) -> None:
    dead = dies(do, "do", "echo out; echo first >&2; echo last >&2; exit 3", on="w1")
    assert (dead.death.kind, dead.death.code, dead.death.cause) == ("exited", 3, "self")
    assert (dead.attempt, dead.worker, dead.artifact) == (1, "w1", "do")
    evidence = dead.evidence
    assert evidence is not None and evidence.machine is not None
    assert evidence.argv[0].endswith("/do") and evidence.argv[1].startswith("echo out")
    assert [(line.stream, line.text) for line in evidence.last_lines] == [
        ("stdout", "out"),
        ("stderr", "first"),
        ("stderr", "last"),
    ]
    assert evidence.machine.memory_total_bytes > evidence.machine.memory_available_bytes > 0
    assert dead.uptime_s is not None and dead.usage.cpu_user_s is not None
    assert dead.placement == "one on each worker of 'w1'"
    text = do.corps("why", dead.id).stdout
    assert "  stderr| last\n" in text and "exited 3\n" in text and "the machine then: load" in text


def test_who_sent_which_signal_by_which_command(do: Cluster) -> None:
    instance = do.launch_one("do", "trap : HUP; echo ready; while :; do sleep 0.1; done")
    until(lambda: do.log_of(instance.id) == "ready\n")
    do.corps("signal", "HUP", instance.id)
    (row,) = do.client.stop((instance.id,), grace_s=0.5)
    assert row.death is not None
    dead = certificate(do, instance.id)
    hup, stop = dead.asked
    assert (hup.verb, hup.signal, stop.verb, stop.grace_s) == ("signal", 1, "stop", 0.5)
    sent = {one.name: one for one in dead.delivered}
    assert (sent["SIGHUP"].command, sent["SIGHUP"].verb) == (hup.command, "signal")
    assert (sent["SIGINT"].command, sent["SIGINT"].verb) == (stop.command, "stop")
    text = do.corps("why", instance.id).stdout
    assert f"SIGHUP delivered (signal by {hup.by}, command {hup.command})" in text
    assert f"cause: stop by {stop.by}, command {stop.command}" in text


def test_a_shells_127_names_the_command(do: Cluster) -> None:
    dead = dies(do, "do", "no-such-command-anywhere", on="w1")
    assert dead.death.message == (
        "exited 127: command no-such-command-anywhere was not found on w1"
    )
    assert dies(do, "do", "exit 127").death.message == "exited 127"
    hinted = dies(do, "do", "exit 137")
    assert hinted.death.message == "exited 137"
    text = do.corps("why", hinted.id).stdout
    assert "hint: by the convention of shells: a child of it was killed by SIGKILL" in text


def test_an_interpreter_that_env_does_not_find(do: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "noded"
    script.write_text("#!/usr/bin/env no-such-interpreter\n")
    script.chmod(0o755)
    do.copy(script, "--force")
    dead = dies(do, "noded", on="w2")
    assert dead.death.message == (
        "exited 127: no-such-interpreter is not in the PATH on w2: install it there"
    )


def test_a_library_that_is_missing_is_named(do: Cluster, tmp_path: Path) -> None:
    built = compiled.compile_greeter(tmp_path)
    do.copy(built, "--no-libs", "--name", "lacks")
    (tmp_path / "libgreet.so").unlink()
    dead = dies(do, "lacks", on="w1")
    assert dead.death.message == (
        "exited 127: library libgreet.so is missing on w1: "
        "copy it too (--lib FILE) or install it there"
    )
    assert "  stderr| " in do.corps("why", dead.id).stdout


def test_a_library_of_another_machine_type_or_cut_short(do: Cluster, tmp_path: Path) -> None:
    built = compiled.compile_greeter(tmp_path)
    do.copy(built, "--no-libs", "--name", "foreign")
    library = tmp_path / "libgreet.so"
    whole = library.read_bytes()
    library.write_bytes(whole[:4] + b"\x01" + whole[5:])
    assert "is built for another machine type" in dies(do, "foreign").death.message
    library.write_bytes(b"short")
    assert "is damaged (file too short)" in dies(do, "foreign").death.message


def test_a_library_that_is_too_old_or_lacks_a_symbol(do: Cluster, tmp_path: Path) -> None:
    def library(version: int, source: str = VERSIONED) -> None:
        script = tmp_path / "map"
        script.write_text(VERSIONS % version)
        flags = ("-shared", "-fPIC", f"-Wl,--version-script={script}")
        compile_c(tmp_path, "libgreet.so", source, *flags)

    library(2)
    flags = (f"-L{tmp_path}", "-lgreet", f"-Wl,-rpath,{tmp_path}", "-Wl,-z,now")
    do.copy(compile_c(tmp_path, "picky", compiled.GREETER, *flags), "--no-libs")
    library(1)
    dead = dies(do, "picky", on="w1")
    assert dead.death.code == 1
    assert "libgreet.so on w1 is older than the program needs (V2)" in dead.death.message
    library(2, "void other(void) {}")
    dead = dies(do, "picky", on="w1")
    assert dead.death.code == 127
    assert "symbol greet that " in dead.death.message


def test_a_tiny_address_space_is_told_from_a_missing_library(do: Cluster, tmp_path: Path) -> None:
    do.copy(compile_c(tmp_path, "plain", compiled.EXIT_3))
    code = 'ulimit -v 1000; exec "$PLAIN"'
    plain = str(tmp_path / "plain")
    dead = dies(do, "do", code, env={"PLAIN": plain})
    assert (dead.death.code, "could not be mapped" in dead.death.message) == (127, True)


def test_the_oom_killer_is_named_only_with_evidence(do: Cluster, tmp_path: Path) -> None:
    """A memory cgroup around this one process: nobody else can be struck."""
    do.copy(compile_c(tmp_path, "eat", EAT))
    instance = do.launch_one("eat", "100")
    until(lambda: do.log_of(instance.id) == "ready\n")
    assert instance.pid is not None
    with memory_group(f"corps-test-{os.getpid()}") as group:
        before = kills()
        (group / "cgroup.procs").write_text(str(instance.pid))
        do.client.signal((instance.id,), signal.SIGUSR1)
        do.wait_dead(instance.id)
        after = kills()
    assert before is not None and after is not None and after > before
    dead = certificate(do, instance.id)
    assert (dead.death.signal, dead.death.cause) == (signal.SIGKILL, "oom")
    assert dead.death.message == "killed by SIGKILL (out of memory)"
    assert dead.evidence is not None and dead.evidence.oom is not None
    assert f"{instance.pid}" in dead.evidence.oom
    assert "out of memory: the kernel's log: " in do.corps("why", instance.id).stdout


def test_a_strangers_sigkill_is_a_strangers(do: Cluster) -> None:
    instance = do.launch_one("do", "exec sleep 1000")
    assert instance.pid is not None
    os.kill(instance.pid, signal.SIGKILL)
    do.wait_dead(instance.id)
    dead = certificate(do, instance.id)
    assert dead.death.cause == "self" and "not sent by corps" in dead.death.message
    assert dead.evidence is not None and not dead.evidence.proves_oom


def test_where_the_living_are_and_which_attempts_are_known(do: Cluster) -> None:
    instance = do.launch_one("do", "exec sleep 1000", on="w2")
    text = do.corps("why", instance.id).stdout
    assert f"now: {instance.id} on w2 runs as pid {instance.pid}" in text
    told = do.corps("why", instance.id, "--attempt", "1").stdout
    assert "now:" not in told and f"forked as pid {instance.pid}" in told
    refused = do.corps("why", instance.id, "--attempt", "7", check=False)
    assert refused.returncode == 4 and "no attempt 7" in refused.stderr
    (row,) = do.client.why((instance.id,))
    assert row.certificates == ()


def test_each_attempt_of_what_is_started_again_has_its_certificate(do: Cluster) -> None:
    instance = do.launch_one("do", 'exit "$CORPS_ATTEMPT_NUMBER"', restart=Restart.ALWAYS, on="w1")
    until(lambda: len(do.client.why((instance.id,))[0].certificates) >= 2)
    do.client.stop((instance.id,))
    (told,) = do.client.why((instance.id,))
    assert [one.death.code for one in told.certificates[:2]] == [1, 2]
    first = do.corps("why", instance.id, "--attempt", "1").stdout
    assert "exited 1\n" in first and "attempt 2 in " in first and "exited 2" not in first
    second = do.corps("why", instance.id, "--attempt", "2").stdout
    assert "an instance stays on its worker" in second and "exited 2" in second
    whole = do.corps("why", instance.id).stdout
    assert "attempt 1 on w1 died after " in whole and "no further attempt" in whole


def test_output_that_would_rule_a_terminal_is_escaped(do: Cluster) -> None:
    dead = dies(do, "do", r"printf '\033[2Jgone\r\001\377\n'; exit 1")
    text = do.corps("why", dead.id).stdout
    assert "\x1b" not in text and r"stdout| \x1b[2Jgone\r\x01\xff" in text
    shown = json.loads(do.corps("why", dead.id, "-o", "json").stdout)
    assert shown[0]["certificates"][0]["evidence"]["last_lines"][0]["stream"] == "stdout"


def test_rm_takes_the_certificates_along(do: Cluster) -> None:
    dead = dies(do, "do", "exit 0")
    do.corps("rm", dead.id)
    with pytest.raises(NotFound):
        do.client.why((dead.id,))


def test_an_app_is_told_in_order_and_bounded(do: Cluster) -> None:
    ids = [dies(do, "do", "exit 0").id for _ in range(5)]
    assert [row.instance.id for row in do.client.why(ids)] == ids
    assert [row.instance.id for row in do.client.why(ids, limit=2)] == ids[-2:]
    headings = [line for line in do.corps("why", *ids).stdout.splitlines() if line.endswith(":")]
    assert [f"{id}:" for id in ids] == [line for line in headings if not line.startswith(" ")]


def test_a_certificate_is_the_same_after_a_restart_of_the_master(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "0")
    alone.wait_dead(instance.id)
    before = as_json(alone, instance.id)
    alone.kill("master")
    alone.start_master()
    alone.wait_state(w1="ready")
    assert as_json(alone, instance.id) == before


def test_evidence_of_a_death_that_its_worker_missed_says_how_late_it_is(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    alone.kill("w1")
    alone.wait_state(w1="lost")
    text = alone.corps("why", instance.id).stdout
    assert "w1 is lost since" in text and f"nobody can say whether pid {instance.pid} runs" in text
    assert instance.pid is not None
    os.kill(instance.pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{instance.pid}").exists())
    died_at = time.monotonic()
    until(lambda: time.monotonic() - died_at > 2 * LATE_S)
    alone.start_worker("w1")
    alone.wait_dead(instance.id)
    dead = certificate(alone, instance.id)
    assert dead.evidence is not None and dead.evidence.seen_after_s > LATE_S
    assert dead.evidence.argv == (), "nobody remembers it word by word"
    text = alone.corps("why", instance.id).stdout
    assert "the machine's state was read " in text and "executed sleep 1000" in text


def as_json(cluster: Cluster, id: str) -> Any:
    return json.loads(cluster.corps("why", id, "-o", "json").stdout)[0]["certificates"]


@contextlib.contextmanager
def memory_group(name: str) -> Iterator[Path]:
    """A memory cgroup (v1, or v2 where that is what the machine has) of MEMORY_BYTES."""
    is_v1 = (MEMORY_GROUPS / "memory.limit_in_bytes").exists()
    group = (MEMORY_GROUPS if is_v1 else Path("/sys/fs/cgroup")) / name
    if not is_v1:
        with contextlib.suppress(OSError):  # it is on already
            (group.parent / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    try:
        limit = "memory.limit_in_bytes" if is_v1 else "memory.max"
        (group / limit).write_text(str(MEMORY_BYTES))
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()

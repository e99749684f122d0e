"""Real programs through a real cluster: launch, look, stop, and the truth about each end."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import pytest

from corps.errors import Conflict, Invalid, NotFound
from corps.model.command import Launch
from corps.model.terms import Linger, Terms
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.waiting import until


def test_a_program_runs_with_its_own_library_that_the_worker_lacks(
    shared: Cluster, tmp_path: Path
) -> None:
    built = compiled.compile_greeter(tmp_path / "built")
    shared.copy(built)
    shutil.rmtree(tmp_path / "built")
    instance = shared.launch_one("greeter", "corps", on="w2")
    assert shared.wait_dead(instance.id).death.message == "exited 0"  # type: ignore[union-attr]  # it is dead
    assert shared.log_of(instance.id) == "hello, corps\n"


def test_without_libs_it_truthfully_exits_127(shared: Cluster, tmp_path: Path) -> None:
    built = compiled.compile_greeter(tmp_path / "built")
    shared.copy(built, "--no-libs", "--name", "bare-greeter")
    shutil.rmtree(tmp_path / "built")
    instance = shared.launch_one("bare-greeter")
    death = shared.wait_dead(instance.id).death
    assert death is not None and (death.kind, death.code, death.cause) == ("exited", 127, "self")
    assert "libgreet.so" in shared.log_of(instance.id, "stderr")


def test_redis_serves_and_stops_by_sigint(shared: Cluster, tmp_path: Path) -> None:
    port = _free_port()
    shared.copy("/usr/bin/redis-server", "--name", "redis")
    instance = shared.launch_one(
        "redis", "--port", str(port), "--bind", "127.0.0.1", "--save", "", on="w1"
    )
    until(lambda: _ping(port) == b"+PONG\r\n")
    (row,) = shared.client.usage(["w1"])
    assert row.children_live is not None and row.children_live >= 1
    assert row.max_rss_bytes is not None and row.max_rss_bytes > 4 << 20
    (stopped,) = shared.client.stop((instance.id,))
    assert stopped.death is not None
    assert (stopped.death.kind, stopped.death.code, stopped.death.cause) == ("exited", 0, "stop")
    assert "root" in stopped.death.message or "by" in stopped.death.message


def test_a_python_script_runs_by_its_shebang(shared: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "count.py"
    script.write_text("#!/usr/bin/python3\nimport sys\nprint(sum(map(int, sys.argv[1:])))\n")
    script.chmod(0o755)
    shared.copy(script, "--name", "count")
    instance = shared.launch_one("count", "1", "2", "39")
    shared.wait_dead(instance.id)
    assert shared.log_of(instance.id) == "42\n"


def test_an_exit_code_is_the_kernels(shared: Cluster, tmp_path: Path) -> None:
    shared.copy(compiled.compile_c(tmp_path, "exit3", compiled.EXIT_3))
    dead = shared.wait_dead(shared.launch_one("exit3").id)
    assert dead.death is not None
    assert (dead.death.kind, dead.death.code, dead.death.cause) == ("exited", 3, "self")
    assert dead.usage.cpu_user_s is not None and dead.usage.max_rss_bytes


def test_a_crash_is_a_signal_not_a_code(shared: Cluster, tmp_path: Path) -> None:
    shared.copy(compiled.compile_c(tmp_path, "segv", compiled.SEGV))
    dead = shared.wait_dead(shared.launch_one("segv").id)
    assert dead.death is not None
    assert (dead.death.kind, dead.death.signal) == ("signaled", signal.SIGSEGV)
    assert dead.death.cause == "self" and "SIGSEGV" in dead.death.message


def test_who_ignores_sigint_is_killed_when_the_grace_is_over(
    shared: Cluster, tmp_path: Path
) -> None:
    shared.copy(compiled.compile_c(tmp_path, "stubborn", compiled.IGNORE_SIGINT))
    instance = shared.launch_one("stubborn")
    until(lambda: shared.log_of(instance.id) == "ready\n")
    (dead,) = shared.client.stop((instance.id,), grace_s=0.3)
    assert dead.death is not None
    assert (dead.death.kind, dead.death.signal, dead.death.cause) == ("signaled", 9, "stop")
    assert "grace of 0.3 s was over" in dead.death.message


def test_a_stopped_process_hears_the_stop(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    instance = shared.launch_one("sleep", "1000")
    shared.client.signal((instance.id,), signal.SIGSTOP)
    until(lambda: shared.get(instance.id).os_state == "stopped")
    (dead,) = shared.client.stop((instance.id,), grace_s=20)
    assert dead.death is not None and (dead.death.signal, dead.death.cause) == (2, "stop")


def test_a_kill_names_who_asked_and_a_stranger_is_not_corps(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    ours, other = shared.launch("sleep", "1000", count=2)
    (dead,) = shared.client.kill((ours.id,))
    assert dead.death is not None and dead.death.cause == "kill"
    assert other.pid is not None
    until(lambda: shared.get(other.id).os_state == "sleeping")
    shared.corps("signal", "TERM", other.id)
    gone = shared.wait_dead(other.id)
    assert gone.death is not None and gone.death.signal == signal.SIGTERM
    assert "signal by" in gone.death.message


def test_a_daemon_that_double_forks_is_reaped_and_its_parent_told_apart(
    shared: Cluster, tmp_path: Path
) -> None:
    shared.copy(compiled.compile_c(tmp_path, "doublefork", compiled.DOUBLE_FORK))
    keep = Terms(linger=Linger.KEEP)
    instance = shared.launch_one("doublefork", on="w1", terms=keep)
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None and dead.death.code == 0
    until(lambda: "grandchild done" in shared.log_of(instance.id))


def test_a_hundred_megabytes_of_log_come_back_whole(shared: Cluster, tmp_path: Path) -> None:
    lines = 1_000_000
    shared.copy(compiled.compile_c(tmp_path, "chatter", compiled.CHATTER))
    instance = shared.launch_one("chatter", str(lines))
    shared.wait_dead(instance.id, 60)
    out = tmp_path / "log"
    shared.corps("logs", instance.id, "--stream", "stdout", "-o", str(out))
    assert out.stat().st_size == lines * 100
    with out.open("rb") as file:
        for number, line in enumerate(file):
            assert int(line[:9]) == number
    tail = shared.corps("logs", instance.id, "--stream", "stdout", "-n", "2").stdout.splitlines()
    assert [int(line.split()[0]) for line in tail] == [lines - 2, lines - 1]


def test_the_environment_is_built_from_empty(shared: Cluster) -> None:
    shared.copy("/usr/bin/env")
    instance = shared.launch_one("env", env={"COLOUR": "blue", "MULTI": "a\nb"}, on="w2")
    shared.wait_dead(instance.id)
    text = shared.log_of(instance.id)
    assert "COLOUR=blue\n" in text and "MULTI=a\nb\n" in text
    assert f"CORPS_INSTANCE={instance.id}\n" in text and "CORPS_WORKER=w2\n" in text
    assert "PYTHON" not in text and "VIRTUAL_ENV" not in text and "PWD" not in text


def test_arguments_are_literal(shared: Cluster) -> None:
    shared.copy("/usr/bin/printf")
    hostile = ("$(id)", "; ls", "*", "a b", 'q"uote', "-n", "tab\there")
    instance = shared.launch_one("printf", "%s\\n", *hostile)
    shared.wait_dead(instance.id)
    assert shared.log_of(instance.id) == "".join(f"{word}\n" for word in hostile)


def test_only_what_is_missing_travels_and_delete_removes_it(
    shared: Cluster, tmp_path: Path
) -> None:
    built = compiled.compile_greeter(tmp_path)
    shared.copy(built, "--name", "once")
    again = shared.corps("copy", str(built), "--name", "once", "-o", "json").stdout
    assert '"bytes_sent":0' in again.replace(" ", "") and "unchanged" in again
    running = shared.launch_one("once", "x", "stay", on="w1")
    with pytest.raises(Conflict, match="in use"):
        shared.client.delete("once")
    shared.client.kill((running.id,))
    rows = shared.client.delete("once")
    assert {row.result for row in rows} <= {"removed"}
    with pytest.raises(NotFound):
        shared.launch("once")


def test_why_tells_the_story_and_audit_the_phases(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    instance = shared.launch_one("sleep", "0.1")
    shared.wait_dead(instance.id)
    (story,) = shared.client.why((instance.id,))
    kinds = [event.kind for event in story.story if event.subject == instance.id]
    assert kinds == ["placed", "started", "died"]
    rows = shared.client.audit((instance.id,))
    assert [row.kind for row in rows] == ["launch", "run"]
    assert set(rows[0].phases_s) == {"send", "fetch", "fork", "exec"}
    assert rows[1].usage is not None and rows[1].seconds is not None


def test_rm_forgets_the_dead_and_their_logs(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    dead = shared.launch_one("sleep", "0")
    shared.wait_dead(dead.id)
    alive = shared.launch_one("sleep", "1000")
    with pytest.raises(Conflict, match="not dead"):
        shared.client.remove((alive.id,))
    home = shared.settings.worker_dir(dead.worker) / "instances" / dead.id
    assert home.is_dir()
    assert shared.client.remove((dead.id,)) == (dead.id,)
    assert not home.exists()
    with pytest.raises(NotFound):
        shared.client.instances((dead.id,))
    shared.client.kill((alive.id,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"echo no shebang\n", "no shell is tried"),
        (b"#!/no/such/interpreter\n", "/no/such/interpreter"),
        (b"#!/bin/sh\r\necho\r\n", "CR LF"),
        (b"\x7fELF" + b"\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(100), "aarch64"),
    ],
)
def test_what_cannot_be_executed_says_exactly_why(
    shared: Cluster, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    path.chmod(0o755)
    name = f"broken-{abs(hash(content)) % 10_000}"
    shared.copy(path, "--name", name, "--no-libs", "--force")
    done = shared.corps("launch", name, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    (view,) = shared.client.instances((f"{name}.1",), with_dead=True)
    assert view.death is not None and view.death.kind == "spawn_failed"
    assert view.death.stage == "execve" and view.death.errno


def test_a_bad_directory_is_told_with_its_stage(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    (view,) = shared.launch("sleep", "1", cwd="/no/such/directory")
    assert view.death is not None
    assert (view.death.kind, view.death.stage, view.death.errno) == ("spawn_failed", "chdir", 2)
    assert "/no/such/directory" in view.death.message


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ("a\0b",)},
        {"args": ("x" * 131_072,)},
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"CORPS_INSTANCE": "forged"}},
        {"env": {"LD_PRELOAD": "/tmp/evil.so"}},
        {"cwd": "relative"},
        {"count": 0},
        {"count": 10_001},
        {"on": "w[3-1]"},
    ],
)
def test_a_bad_launch_is_refused_before_anything_happens(
    shared: Cluster, fields: dict[str, object]
) -> None:
    shared.copy("/bin/sleep")
    before = len(shared.client.instances(with_dead=True))
    with pytest.raises(Invalid):
        shared.client.launch(Launch(artifact="sleep", **fields))  # type: ignore[arg-type]  # on purpose
    assert len(shared.client.instances(with_dead=True)) == before


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _ping(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as redis:
            redis.sendall(b"PING\r\n")
            return redis.recv(64)
    except ConnectionError:
        return b""

"""The shell and `corps up` as a person meets them, on a pseudo-terminal, and as a script does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.cli.lock import Holder, holder
from corps.client import Client
from corps.config import Settings
from corps.model.token import TokenKind, parse_token
from corps.model.view import InstanceView
from tests.support.cluster import Cluster
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

PROMPT = "corps>"
SCRIPT = '#!/bin/sh\nexec /bin/sh -c "$@"\n'


def _do(directory: Path) -> Path:
    """A program that carries out what `sh -c` would."""
    script = directory / "do"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return script


def _command(settings: Settings, *words: str) -> list[str]:
    return [sys.executable, "-m", "corps.cli.main", "--dir", settings.dir, *words]


@pytest.fixture(scope="module")
def corps(shared: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    shared.copy(_do(tmp_path_factory.mktemp("do")))
    return shared


@pytest.fixture
def shell(corps: Cluster) -> Iterator[Terminal]:
    with Terminal(_command(corps.settings, "shell"), os.environ) as terminal:
        terminal.expect(PROMPT)
        yield terminal
    corps.client.kill(("--all",))


def test_a_session(corps: Cluster, shell: Terminal) -> None:
    shell.send("launch do --on w1 -- 'exec sleep 100'\r")
    shell.expect("w1")
    shell.expect("running")
    shell.expect(PROMPT)
    shell.send("ps\r")
    shell.expect("sleeping")
    shell.expect(PROMPT)
    shell.send("corps workers -o name\r")
    shell.expect("w1\r\nw2\r\n")
    shell.expect(PROMPT)
    shell.send("help\r")
    shell.expect("Usage: corps")
    shell.expect(PROMPT)
    shell.send("help launch\r")
    shell.expect("Usage: corps launch")
    shell.expect(PROMPT)
    shell.send("exit\r")
    assert shell.wait() == 0


def test_what_goes_wrong_is_told_and_the_shell_goes_on(shell: Terminal) -> None:
    for line, told in (
        ("pss", "corps: no command 'pss'; did you mean 'ps'?"),
        ("ps nope", "corps: no app or instance 'nope'"),
        ("logs --folow x", "did you mean '--follow'?"),
        ("launch 'do", "corps: no closing quotation"),
        ("up", "corps: not within the shell"),
        ("shell", "corps: not within the shell"),
    ):
        shell.send(f"{line}\r")
        shell.expect(told)
        shell.expect(PROMPT)
    shell.send("\x04")
    assert shell.wait() == 2


def test_ctrl_c_interrupts_a_command_not_the_shell(corps: Cluster, shell: Terminal) -> None:
    shell.send("events -f\r")
    shell.expect("joined" if b"joined" in shell.seen else "MESSAGE")
    shell.send("\x03")
    shell.expect("corps: interrupted")
    shell.expect(PROMPT)
    shell.send("half a line\x03")
    shell.expect(PROMPT)
    shell.send("\x03")
    shell.expect(PROMPT)
    shell.send("workers -o name\r")
    shell.expect("w2\r\n")
    shell.expect(PROMPT)
    shell.send("\x04")
    assert shell.wait() == 0


@pytest.mark.parametrize(
    ("typed", "added", "told"),
    [
        ("vers", "ion", "corps 0.1.0"),
        ("hel", "p", "Usage: corps"),
        ("help vers", "ion", "Usage: corps version"),
        ("workers --hel", "p", "Usage: corps workers"),
        ("workers -o na", "me", "w1\r\nw2\r\n"),
        ("launch d", "o", "running"),
        ("launch --on w2 d", "o", "running"),
        ("launch --on w1,w2 d", "o", "running"),
    ],
)
def test_tab_completes(shell: Terminal, typed: str, added: str, told: str) -> None:
    shell.send(f"{typed}\t")
    shell.expect_line(f"{PROMPT} {typed}{added}")
    shell.send("\r")
    shell.expect(told)
    shell.expect(PROMPT)


def test_tab_completes_instances_and_files(corps: Cluster, shell: Terminal, tmp_path: Path) -> None:
    corps.client.remove(("--all",))
    instance = corps.launch_one("do", "exec sleep 100")
    shell.send(f"stop {instance.id[:-1]}\t")
    shell.expect_line(f"{PROMPT} stop {instance.id}")
    shell.send("\r")
    shell.expect("killed by SIGINT")
    shell.expect(PROMPT)
    (tmp_path / "a-rather-long-name").touch()
    shell.send(f"copy {tmp_path}/a-rat\t")
    shell.expect_line(f"{PROMPT} copy {tmp_path}/a-rather-long-name")


def test_tab_completes_people_tokens_and_secrets(
    corps: Cluster, shell: Terminal, tmp_path: Path
) -> None:
    value = tmp_path / "value"
    value.write_text("hunter2")
    corps.corps("secret", "set", "database", "--file", str(value))
    corps.corps("user", "add", "ann", "--role", "viewer")
    token = parse_token(corps.corps("user", "token", "ann").stdout, TokenKind.PERSON).id
    for begun, whole in (
        ("token revoke " + token[:6], "token revoke " + token),
        ("launch --secret data", "launch --secret database"),
        ("secret delete data", "secret delete database"),
        ("user remove an", "user remove ann"),
    ):
        shell.send(f"{begun}\t")
        shell.expect_line(f"{PROMPT} {whole}")
        shell.send("\r")
        shell.expect(PROMPT)
    until(lambda: corps.client.users() == [] and corps.client.secrets() == [])


def test_history_is_kept_private(corps: Cluster) -> None:
    history = corps.settings.state_dir / "history"
    history.unlink(missing_ok=True)
    with Terminal(_command(corps.settings, "shell"), os.environ) as terminal:
        terminal.expect("TAB completes")
        terminal.expect(PROMPT)
        terminal.send("version\r")
        terminal.expect("corps 0.1.0")
        terminal.expect(PROMPT)
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert history.stat().st_mode & 0o777 == 0o600
    with Terminal(_command(corps.settings, "shell"), os.environ) as terminal:
        terminal.expect(PROMPT)
        assert b"TAB completes" not in terminal.seen
        terminal.send("\x1b[A\r")
        terminal.expect("corps 0.1.0")
        terminal.expect(PROMPT)
        terminal.send("\x04")
        assert terminal.wait() == 0


def _script(cluster: Cluster, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(cluster.settings, "shell"), input=text, capture_output=True, text=True, timeout=60
    )


def test_a_script_reads_lines_and_ends_with_the_status_of_the_last(corps: Cluster) -> None:
    done = _script(corps, "# a comment\n\nps nope\nworkers -o name\n")
    assert (done.returncode, done.stdout) == (0, "w1\nw2\n")
    assert done.stderr.startswith("corps: no app or instance 'nope'")
    assert _script(corps, "workers -o name\nps nope\n").returncode == 4
    assert _script(corps, "ps nope\nexit\nworkers\n").stdout == ""
    assert _script(corps, "").returncode == 0


def test_a_script_is_not_asked(corps: Cluster) -> None:
    corps.launch("do", "exec sleep 100", count=2)
    done = _script(corps, "kill do\n")
    assert done.returncode == 2 and "not without -y" in done.stderr
    done = _script(corps, "kill do -y -o name\n")
    assert done.returncode == 0 and len(done.stdout.split()) == 2


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A state directory for `corps up`; whatever happens, it is ended."""
    settings = Settings(dir=str(tmp_path / "state"), heartbeat_s=0.25)
    yield settings
    subprocess.run(_command(settings, "down"), check=True, capture_output=True, timeout=60)
    assert Cluster(tmp_path).processes() == []


def _corps(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(settings, *words),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_up_detached_and_down(settings: Settings, tmp_path: Path) -> None:
    done = _corps(settings, "up", "--workers", "2", "--detach", "--heartbeat", "0.25")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"corps: master and w1 w2 are ready in {settings.dir}\n"
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700
    again = _corps(settings, "up")
    assert again.returncode == 5
    assert "a master already runs on" in again.stderr and "corps down" in again.stderr
    assert _corps(settings, "copy", str(_do(tmp_path))).returncode == 0
    assert _corps(settings, "launch", "do", "--on", "all", "--", "exec sleep 100").returncode == 0
    done = _corps(settings, "down")
    assert done.returncode == 0
    assert done.stderr == "corps: stopping 2 instances (grace 10 s)\ncorps: ended\n"
    assert Cluster(tmp_path).processes() == []
    assert _corps(settings, "down").stderr == f"corps: nothing to end in {settings.dir}\n"
    assert _corps(settings, "ps").returncode == 7


def test_up_again_finds_what_was_there(settings: Settings, tmp_path: Path) -> None:
    _corps(settings, "up", "--detach", "--heartbeat", "0.25")
    _corps(settings, "copy", str(_do(tmp_path)))
    _corps(settings, "down")
    assert _corps(settings, "up", "--detach", "--heartbeat", "0.25").returncode == 0
    assert _corps(settings, "artifacts", "-o", "name").stdout.startswith("do@")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_without_a_terminal_ends_with_everything_when_told(
    settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        _command(settings, "up", "--heartbeat", "0.25"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as up:
        assert up.stderr is not None
        assert "ready" in up.stderr.readline()
        _corps(settings, "copy", str(_do(tmp_path)))
        _corps(settings, "launch", "do", "--", "exec sleep 100")
        up.send_signal(number)
        assert up.wait(30) == 0
    assert Cluster(tmp_path).processes() == []


def test_up_without_a_terminal_ends_when_down_is_called(settings: Settings) -> None:
    with subprocess.Popen(
        _command(settings, "up", "--heartbeat", "0.25"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stderr is not None
        up.stderr.readline()
        assert _corps(settings, "down").returncode == 0
        assert up.wait(30) == 0


def test_a_dead_master_is_told_and_its_workers_are_found_again(
    settings: Settings, tmp_path: Path
) -> None:
    with subprocess.Popen(
        _command(settings, "up", "--heartbeat", "0.25"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stderr is not None
        up.stderr.readline()
        _corps(settings, "copy", str(_do(tmp_path)))
        id = _corps(settings, "launch", "do", "-o", "name", "--", "exec sleep 100").stdout.strip()
        pid = _instance(settings).pid
        _kill(settings.master_dir)
        assert up.wait(30) == 1
        assert "workers and apps go on" in up.stderr.read()
    assert _corps(settings, "up", "--detach", "--heartbeat", "0.25").returncode == 0
    row = _instance(settings)
    assert (row.id, row.pid, row.state) == (id, pid, "running")


def test_down_ends_in_order_even_when_the_master_is_dead(
    settings: Settings, tmp_path: Path
) -> None:
    _corps(settings, "up", "--detach", "--heartbeat", "0.25")
    _corps(settings, "copy", str(_do(tmp_path)))
    _corps(settings, "launch", "do", "--", "exec sleep 100")
    _kill(settings.master_dir)
    done = _corps(settings, "down")
    assert done.returncode == 0
    assert "starting it again to end all in order" in done.stderr
    assert Cluster(tmp_path).processes() == []


def test_down_ends_the_apps_of_daemons_that_are_all_dead(
    settings: Settings, tmp_path: Path
) -> None:
    _corps(settings, "up", "--detach", "--heartbeat", "0.25")
    _corps(settings, "copy", str(_do(tmp_path)))
    _corps(settings, "launch", "do", "--", "exec sleep 100")
    app = _instance(settings).pid
    for pid in Cluster(tmp_path).processes():
        if pid != app:
            os.kill(pid, signal.SIGKILL)
    until(lambda: Cluster(tmp_path).processes() == [app])
    done = _corps(settings, "down")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "corps: ended")
    assert Cluster(tmp_path).processes() == []


def test_a_lost_worker_keeps_back_its_own_logs_only(settings: Settings, tmp_path: Path) -> None:
    _corps(settings, "up", "--workers", "2", "--detach", "--heartbeat", "0.25")
    _corps(settings, "copy", str(_do(tmp_path)))
    words = ["launch", "do", "--on", "all", "-o", "name", "--", "echo here; exec sleep 100"]
    first, second = _corps(settings, *words).stdout.split()
    until(lambda: _corps(settings, "logs", first, second).stdout.count("here") == 2)
    _kill(settings.worker_dir("w1"))
    done = _corps(settings, "logs", "do")
    assert (done.returncode, done.stdout) == (7, f"{second} | here\n")
    assert "which does not answer" in done.stderr
    assert done.stderr.endswith("corps: 1 of 2 instances have no log to show now\n")
    until(lambda: _corps(settings, "workers", "-o", "json").stdout.count("lost") == 1)
    done = _corps(settings, "kill", first)
    assert done.returncode == 8
    assert f"{first}: its worker w1 does not answer" in done.stderr
    assert _corps(settings, "logs", first).returncode == 7


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(dir=str(tmp_path / "state"))
    (tmp_path / "state" / "workers").mkdir(parents=True)
    (tmp_path / "state" / "workers" / "w2").symlink_to("/proc/1")  # no directory to write into
    done = _corps(settings, "up", "--workers", "2", "--detach")
    assert done.returncode != 0
    assert "w2" in done.stderr
    assert Cluster(tmp_path).processes() == []


def test_up_on_a_terminal_opens_the_shell_and_ctrl_c_ends_all(
    settings: Settings, tmp_path: Path
) -> None:
    with Terminal(_command(settings, "up", "--heartbeat", "0.25"), os.environ) as terminal:
        terminal.expect("corps: master and w1 are ready")
        terminal.expect("exit or ctrl-D ends the cluster and its apps")
        terminal.expect(PROMPT)
        terminal.send(f"copy {_do(tmp_path)}\r")
        terminal.expect("installed")
        terminal.expect(PROMPT)
        terminal.send("launch do -- 'exec sleep 100'\r")
        terminal.expect("running")
        terminal.expect(PROMPT)
        terminal.send("\x03")
        terminal.expect("corps: stopping 1 instances")
        assert terminal.wait() == 0
    assert Cluster(tmp_path).processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_up_on_a_terminal_ends_all_when_it_is_told_or_the_terminal_goes(
    settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    with Terminal(_command(settings, "up", "--heartbeat", "0.25"), os.environ) as terminal:
        terminal.expect(PROMPT)
        terminal.process.send_signal(number)
        assert terminal.wait() == 0
    assert Cluster(tmp_path).processes() == []


def _instance(settings: Settings) -> InstanceView:
    with Client(settings) as client:
        (row,) = client.instances()
    return row


def _kill(directory: Path) -> None:
    daemon = Holder.find(directory / "lock", holder)
    assert daemon is not None
    daemon.send(signal.SIGKILL)
    assert daemon.is_gone(10)
    daemon.close()

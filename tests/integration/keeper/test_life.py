"""How a keeper begins and ends, and what it costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.keeper.main import command
from corps.wire import keeper as wire
from tests.integration.keeper.driver import DEADLINE_S, Keeper, status_of
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

RSS_MAX_KIB = 16_384  # 11,600 on Debian 12 with CPython 3.11


def _try(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [*command(sys.executable, str(directory)), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)


def test_a_second_keeper_ends_with_a_clear_line(keeper: Keeper, order: Order) -> None:
    second = _try(keeper.directory)
    assert (second.returncode, second.stdout) == (5, "")
    assert (
        second.stderr == f"corps keeper: {keeper.directory}: another keeper serves this directory\n"
    )
    assert keeper.link.run(order("app.1#1", "/bin/true")).status == 0


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    failed = _try(tmp_path / "nowhere")
    assert failed.returncode == 1
    assert "No such file" in failed.stderr
    assert str(tmp_path / "nowhere") in failed.stderr


def test_a_long_path_is_no_obstacle(start: Start, order: Order) -> None:
    long = "/".join(["directory" * 10] * 3)
    start(at=long).kill()
    assert start(at=long).link.run(order("app.1#1", "/bin/true")).status == 0


def test_only_the_owner_may_connect_or_read(keeper: Keeper) -> None:
    for name in ("keeper.sock", "keeper.lock", "journal"):
        assert (keeper.directory / name).stat().st_mode & 0o777 == 0o600


def test_signals_of_a_terminal_do_not_end_it(keeper: Keeper, order: Order, built: Built) -> None:
    assert os.getsid(keeper.pid) == keeper.pid
    keeper.link.spawn(order("app.1#1", built("wait")))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(keeper.pid, number)
    os.kill(keeper.pid, signal.SIGTERM)
    until(
        lambda: keeper.errors.read_text() == "corps keeper: SIGTERM: not ending, 1 children live\n"
    )
    assert keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    keeper.link.ended("app.1#1")
    os.kill(keeper.pid, signal.SIGTERM)
    assert keeper.process.wait(DEADLINE_S) == 0
    assert not (keeper.directory / "keeper.sock").exists()


def test_quit_is_refused_while_a_child_lives(keeper: Keeper, order: Order, built: Built) -> None:
    keeper.link.spawn(order("app.1#1", built("wait")))
    keeper.link.send(wire.Quit())
    assert keeper.link.wait(wire.Refused).reason == "1 children live"
    keeper.link.signal("app.1#1", signal.SIGKILL)
    keeper.link.ended("app.1#1")
    late = order("app.2#1", "/bin/true")
    keeper.link.send(wire.Quit(), late)
    assert keeper.link.closed()
    assert not Path(late.stdout).exists()
    assert keeper.process.wait(DEADLINE_S) == 0


def test_alone_and_without_children_it_ends_by_itself(
    start: Start, order: Order, built: Built
) -> None:
    keeper = start("--idle-s=0.05")
    said = order("app.1#1", built("wait"), "9")
    pid = keeper.link.spawn(said).pid
    keeper.link.close()
    until(lambda: Path(said.stdout).read_text() == "ready\n")
    os.kill(pid, signal.SIGUSR1)
    assert keeper.process.wait(DEADLINE_S) == 0
    assert start().link.listing()["app.1#1"].status == status_of(9)


def test_a_socket_that_somebody_removed_is_made_again(
    keeper: Keeper, order: Order, built: Built
) -> None:
    keeper.link.spawn(order("app.1#1", built("wait")))
    (keeper.directory / "keeper.sock").unlink()
    assert keeper.link.listing()["app.1#1"].is_live
    assert keeper.connect().listing()["app.1#1"].is_live


def test_a_keeper_to_which_nobody_comes_ends_by_itself(tmp_path: Path) -> None:
    ended = _try(tmp_path, "--idle-s=0.05")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "keeper.lock"]


def test_it_may_be_born_without_stdin_stdout_and_stderr(
    start: Start, order: Order, built: Built
) -> None:
    keeper = start(limits="exec 0<&- 1>&- 2>&-")
    said = order("app.1#1", built("probe"))
    assert keeper.link.run(said).status == 0
    facts = Path(said.stdout).read_text()
    assert f"open1:{said.stdout}\nopen2:{said.stderr}\n" in facts
    assert facts.count("fd:") == 3
    keeper.link.spawn(order("app.2#1", built("wait")))
    os.kill(keeper.pid, signal.SIGTERM)
    assert keeper.link.listing()["app.2#1"].is_live


def test_it_is_small_and_keeps_nothing_of_what_is_forgotten(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    assert _rss_kib(keeper.pid) < RSS_MAX_KIB
    sizes = []
    for turn in range(4):
        keys = [f"turn{turn}.{number}#1" for number in range(150)]
        keeper.link.send(*(order(key, "/bin/true", **log) for key in keys))
        for key in keys:
            assert keeper.link.ended(key).status == 0
        keeper.link.send(wire.Forget(keys=tuple(keys)))
        assert keeper.link.listing() == {}
        sizes.append((_rss_kib(keeper.pid), len(os.listdir(f"/proc/{keeper.pid}/fd"))))
    assert sizes[-1][0] - sizes[1][0] < 200, sizes
    assert sizes[-1][1] == sizes[0][1], sizes


@pytest.mark.parametrize("module", ["asyncio", "threading", "logging", "msgspec", "typing"])
def test_what_would_make_it_fat_is_not_imported(module: str) -> None:
    code = command("", "")[5].replace("main()", f"import sys; sys.exit({module!r} in sys.modules)")
    assert subprocess.run([sys.executable, "-I", "-S", "-E", "-c", code]).returncode == 0


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

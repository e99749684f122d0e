"""Command lines that need no master: what is wrong with them is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.cli.operator import Operator
from corps.cli.tree import MODULES, run, tree


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = run(list(words), Operator(dir="/nonexistent/corps"))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "see 'corps --help'"),
        (["token"], "COMMAND [ARGS]...); see 'corps token --help'"),
        (["user", "add", "ann"], "'--role'. Choose from: viewer, operator, deployer, admin (usage"),
        (["pss"], "no command 'pss'; did you mean 'ps'?"),
        (["frobnicate"], "no command 'frobnicate'; see 'corps --help'"),
        (["--dirr", "x", "ps"], "no option '--dirr'; did you mean '--dir'?"),
        (["logs", "--folow", "web"], "no option '--folow'; did you mean '--follow'?"),
        (["launch"], "missing argument 'NAME' (usage: corps launch"),
        (["launch", "web", "--count", "0"], "0 is not in the range 1<=x<=10000"),
        (["launch", "web", "--count", "many"], "'many' is not a valid integer range"),
        (["ps", "-o", "xml"], "'xml' is not one of"),
        (["stop"], "give a TARGET"),
        (["stop", "--all", "web"], "give TARGET or --all, not both"),
        (["stop", "web", "--grace", "-1"], "-1.0 is not in the range"),
        (["logs"], "give a TARGET"),
        (["why"], "give a TARGET"),
        (["usage", "--all", "w1"], "give TARGET or --all, not both"),
        (["workers", "extra"], "got unexpected extra argument (extra)"),
        (["events", "-f", "-o", "json"], "use -o jsonl with -f"),
        (["logs", "web", "--since", "10"], "bad time '10'"),
        (["logs", "web", "--attempt", "0"], "0 is not in the range x>=1"),
        (["events", "--since", "yesterday"], "bad time 'yesterday': spelled 2026-11-23T13:28:00Z"),
        (["worker"], "missing option '--master'"),
        (["up", "--workers", "0"], "0 is not in the range 1<=x<=64"),
        (["up", "--workers", "65"], "65 is not in the range 1<=x<=64"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, out, err = _run(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("corps: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["signal", "HUPP", "web.1"], "no signal 'HUPP': one of ABRT ALRM"),
        (["signal", "99", "web.1"], "no signal '99'"),
        (["launch", "web", "-e", "A"], "bad variable 'A': spelled NAME=VALUE"),
        (["launch", "web", "-e", "=x"], "bad variable name ''"),
        (["launch", "web", "-e", "A=1", "-e", "A=2"], "variable 'A' is given twice"),
        (["launch", "web", "-e", "CORPS_X=1"], "variable 'CORPS_X' is set by corps"),
        (["launch", "web", "-e", "A\0B=1"], "bad variable name"),
        (["master", "--listen", "nowhere"], "bad address 'nowhere': spelled HOST:PORT"),
        (["master", "--listen", "127.0.0.1:70000"], "bad address '127.0.0.1:70000'"),
        (["master", "--api", "127.0.0.1"], "bad address"),
        (["worker", "--master", "127.0.0.1:0"], "no master has port 0"),
        (["worker", "--master", "::1:70"], "write IPv6 as [::1]:7077"),
        (["worker", "--master", "127.0.0.1:1", "--label", "zone"], "bad label 'zone'"),
        (
            ["worker", "--master", "127.0.0.1:1", "--label", "a=1", "--label", "a=2"],
            "a label is given twice",
        ),
        (["worker", "--master", "127.0.0.1:1", "--token", "t"], "this is no token"),
        (["--server", "https://me:word@m:1", "ps"], "bad server: spelled https://HOST:PORT"),
        (["--server", "https://m:1/x", "ps"], "bad server: spelled https://HOST:PORT"),
        (["ps", "--server", "m:1"], "bad server 'm:1'"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_3(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, out, err = _run(capsys, *words)
    assert (status, out) == (3, "")
    assert message in err
    assert err.startswith("corps: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["ps"],
        ["workers", "-o", "json"],
        ["launch", "web", "--", "-x", "--", "y"],
        ["stop", "web.1"],
        ["stop", "web", "-y"],
        ["signal", "sigint", "web.1"],
        ["signal", "2", "web.1"],
        ["logs", "-f", "web.1"],
        ["copy", "/bin/true"],
        ["events"],
        ["why", "web.1"],
    ],
)
def test_without_a_master_it_is_exit_7(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    status, out, err = _run(capsys, *words)
    assert (status, out) == (7, "")
    assert err == (
        "corps: no master at unix:///nonexistent/corps/master/api.sock: no such file or "
        "directory; start one with 'corps up' or 'corps master'\n"
    )


def test_the_master_can_be_named_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words in (["--dir", str(tmp_path), "ps"], ["ps", "--dir", str(tmp_path)]):
        assert f"unix://{tmp_path}/master/api.sock" in _run(capsys, *words)[2]
    words = ["--dir", "/elsewhere", "ps", "--server", f"unix://{tmp_path}/x.sock"]
    assert f"no master at unix://{tmp_path}/x.sock" in _run(capsys, *words)[2]


def test_the_flag_dir_is_stronger_than_a_server_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CORPS_SERVER", "unix:///far/away.sock")
    assert f"unix://{tmp_path}/master/api.sock" in _run(capsys, "--dir", str(tmp_path), "ps")[2]
    assert run(["ps"], Operator()) == 7
    assert "unix:///far/away.sock" in capsys.readouterr().err


def test_down_with_nothing_there_is_no_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, _, err = _run(capsys, "--dir", str(tmp_path), "down")
    assert (status, err) == (0, f"corps: nothing to end in {tmp_path}\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "version") == (0, "corps 0.1.0\n", "")


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, err = _run(capsys, name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: corps {name}")
    assert len(out.splitlines()) > 3


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _run(capsys, "--help")
    assert status == 0
    for name in MODULES:
        assert f"\n  {name} " in out
    assert len(MODULES) == len(tree.list_commands(tree.make_context("corps", ["ps"])))

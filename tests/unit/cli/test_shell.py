from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from corps.cli.operator import Operator
from corps.cli.shell import Shell, TreeCompleter


def _completed(text: str) -> list[str]:
    completer = TreeCompleter(Operator(dir="/nonexistent/corps"))
    document = Document(text)
    found = completer.get_completions(document, CompleteEvent())
    return [
        (document.text[: len(document.text) + each.start_position] + each.text) for each in found
    ]


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("nop", []),
        ("pro", ["progress"]),
        ("vers", ["version"]),
        ("ex", ["exit"]),
        ("help vers", ["help version"]),
        ("logs --str", ["logs --stream"]),
        ("logs --stream std", ["logs --stream stdout", "logs --stream stderr"]),
        ("ps -o js", ["ps -o json", "ps -o jsonl"]),
        ("launch 'half a wo", []),
        ("nonsense x", []),
        ("ps ", []),
    ],
)
def test_completion_without_a_master(text: str, completed: list[str]) -> None:
    assert _completed(text) == completed


def test_completion_of_files(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    assert _completed(f"copy {tmp_path}/pro") == [f"copy {tmp_path}/program"]


def test_every_command_and_own_word_is_offered() -> None:
    assert {"help", "exit", "ps", "launch", "up"} <= set(_completed(""))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", ""),
        ("   ", ""),
        ("# nothing", ""),
        ("corps", ""),
        ("corps version", "corps 0.1.0\n"),
        ("version", "corps 0.1.0\n"),
        ("version 'x", "corps: no closing quotation: version 'x\n"),
        ("master", "corps: not within the shell: exit first, then 'corps master'\n"),
        ("corps worker", "corps: not within the shell: exit first, then 'corps worker'\n"),
        ("pss", "corps: no command 'pss'; did you mean 'ps'?\n"),
    ],
)
def test_one_line(capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    Shell(Operator(dir="/nonexistent/corps")).do(line)
    captured = capsys.readouterr()
    assert captured.out + captured.err == told

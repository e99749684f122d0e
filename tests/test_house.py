"""The house style, as far as a machine can hold us to it (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps import errors
from corps.cli.tree import MODULES
from corps.errors import ERRORS, CorpsError
from corps.model.instance import MOVES

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "corps").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES_MAX = 400
KEEPER_LINES_MAX = 2_600  # ADR 30, ADR 31
FUNCTION_LINES_MAX = 60
BANNED_CLASS_WORDS = ("Manager", "Handler", "Helper", "Service", "Base", "Util")
BANNED_MODULES = {"utils", "common", "misc", "helpers"}
BANNED_CALLS = {"eval", "exec", "os.system", "os.popen", "pickle.loads", "pickle.load"}
CLOCKS = {"time.time", "time.monotonic", "datetime.now", "datetime.datetime.now", "random.random"}
DOORS = {"master/driver.py", "worker/driver.py", "cli/main.py", "cli/shell.py"}


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_small_and_says_what_it_decides(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py":
        assert text == "", "an __init__ is empty"
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert path.stem not in BANNED_MODULES
    for function in _functions(tree):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{function.name} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not any(node.name.endswith(word) for word in BANNED_CLASS_WORDS), node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_evaluated_swallowed_or_given_to_a_shell(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for name, call in _calls(tree):
        assert name not in BANNED_CALLS, f"line {call.lineno}"
        assert not any(keyword.arg == "shell" for keyword in call.keywords), f"line {call.lineno}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kind = ast.unparse(node.type) if node.type else "bare"
            if kind in {"bare", "Exception", "BaseException"}:
                assert str(path.relative_to(ROOT / "src" / "corps")) in DOORS, f"line {node.lineno}"


def test_the_keeper_is_tiny() -> None:
    keeper = [path for path in SOURCES if path.parent.name == "keeper"]
    assert sum(len(path.read_text().splitlines()) for path in keeper) < KEEPER_LINES_MAX


@pytest.mark.parametrize("room", ["model", "wire", "core"])
def test_pure_rooms_read_no_clock_and_no_chance(room: str) -> None:
    for path in (ROOT / "src" / "corps" / room).rglob("*.py"):
        for name, call in _calls(ast.parse(path.read_text())):
            assert name not in CLOCKS, f"{path.name}:{call.lineno}"


def test_every_sql_statement_is_built_by_the_library() -> None:
    for path in SOURCES:
        for name, call in _calls(ast.parse(path.read_text())):
            if name.endswith((".execute", ".exec_driver_sql", "sql.text")):
                assert not any(isinstance(part, ast.JoinedStr) for part in ast.walk(call))


def test_tests_wait_for_what_they_want_and_never_sleep() -> None:
    for path in TESTS:
        if path.name == "waiting.py":
            continue
        for name, call in _calls(ast.parse(path.read_text())):
            assert name not in {"time.sleep", "sleep"}, f"{path.name}:{call.lineno}"


def test_the_table_of_errors_is_the_truth() -> None:
    table = errors.__doc__ or ""
    rows = re.findall(r"^\| (\w+) +\| (\w+) +\| (\d+) +\| (\d+) +\|", table, re.MULTILINE)
    assert {row[0] for row in rows} == {error.__name__ for error in ERRORS.values()}
    for name, code, http, exit_code in rows:
        error = ERRORS[code]
        assert (error.__name__, error.http_status, error.exit_code) == (
            name,
            int(http),
            int(exit_code),
        )
    subclasses = {error.code for error in CorpsError.__subclasses__()}
    assert subclasses == set(ERRORS) - {"bug"}
    design = (ROOT / "docs" / "design.md").read_text()
    for name, code, http, exit_code in rows:
        assert re.search(rf"\| `{code}` \| {http} \| {exit_code} \|", design), name


def test_the_design_shows_every_move_of_an_instance() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| may become \| (.*) \|$", design, re.MULTILINE)
    shown = {state: set(re.findall(r"`(\w+)`", targets)) for state, targets in rows}
    assert shown == {str(state): {str(to) for to in targets} for state, targets in MOVES.items()}


def test_every_command_is_in_the_design_with_its_help() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for name in MODULES:
        assert f"`corps {name}" in design, name

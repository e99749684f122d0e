"""The shell: the same commands one after the other, with history and completion."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import click
from click.shell_completion import ShellComplete
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import verb
from corps.cli.tree import MODULES, PROGRAM, WORKER_REVOKE, run, tree
from corps.errors import INTERRUPTED_EXIT_CODE, Malformed

PROMPT = f"{PROGRAM}> "
HISTORY = "history"
OWN_WORDS = ("help", "exit")
OUTSIDE = ("up", "master", "worker", "shell")
_TOKEN = re.compile(r"\b[CP]1\.[a-z2-7]{8}\.")


@verb("shell")
@click.pass_obj
def shell(operator: Operator) -> int:
    """Read commands, one a line; on a terminal with history and completion.

    Without a terminal the exit status is that of the last command.
    """
    if operator.is_in_shell:
        raise Malformed("this is the shell already")
    return Shell(operator).run()


class Shell:
    """`ends_on_interrupt`: ctrl-C on an empty line leaves the shell, as `corps up` promises."""

    def __init__(self, operator: Operator, *, ends_on_interrupt: bool = False) -> None:
        self._operator = operator
        self._operator.is_in_shell = True
        self._ends_on_interrupt = ends_on_interrupt
        self._is_over = False
        self._status = 0

    def run(self) -> int:
        """The exit status of the last command."""
        if sys.stdin.isatty() and sys.stdout.isatty():
            self._converse()
        else:
            self._read_lines()
        return self._status

    def do(self, line: str) -> None:
        """Carry out one line; what goes wrong is told, and the shell goes on."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            render.error(f"{str(error).lower()}: {line.strip()}")
            self._status = Malformed.exit_code
            return
        if words[:1] == [PROGRAM]:
            del words[0]
        if not words or words[0].startswith("#"):
            return
        if words[0] in ("exit", "quit"):
            self._is_over = True
        elif words[0] in OUTSIDE and words[:2] != WORKER_REVOKE:
            render.error(f"not within the shell: exit first, then '{PROGRAM} {words[0]}'")
            self._status = Malformed.exit_code
        else:
            self._status = self._run([*words[1:], "--help"] if words[0] == "help" else words)

    def _run(self, words: list[str]) -> int:
        try:
            return run(words, self._operator)
        except BrokenPipeError:
            raise
        except Exception as bug:
            return render.bug(bug)

    def _read_lines(self) -> None:
        for line in sys.stdin:
            self.do(line)
            if self._is_over or self._status == INTERRUPTED_EXIT_CODE:
                return

    def _converse(self) -> None:
        path = self._operator.settings.state_dir / HISTORY
        if not path.exists():
            self._greet()
        session: PromptSession[str] = PromptSession(
            PROMPT,
            history=history(path),
            completer=TreeCompleter(self._operator),
            complete_in_thread=True,
            complete_while_typing=False,
            output=_output(),
        )
        while not self._is_over:
            try:
                line = session.prompt()
            except EOFError:
                return
            except KeyboardInterrupt:
                if self._ends_on_interrupt and not session.default_buffer.text:
                    raise
                continue
            self.do(line)

    def _greet(self) -> None:
        end = "ends the cluster and its apps" if self._ends_on_interrupt else "leaves"
        render.note(f"corps {version(PROGRAM)} puts programs on machines and tells what they do.")
        render.note("Begin with: copy PATH, launch NAME, ps. 'help' lists all, TAB completes.")
        render.note(f"Ctrl-C interrupts a command; exit or ctrl-D {end}.")


class TreeCompleter(Completer):
    """What may stand at the cursor, as the command tree knows it."""

    def __init__(self, operator: Operator) -> None:
        self._clicks = ShellComplete(tree, {"obj": operator}, PROGRAM, "")
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        words, last = _split(document.text_before_cursor)
        if words[:1] == ["help"] or (not words and not last.startswith("-")):
            known = MODULES if words else (*OWN_WORDS, *MODULES)
            yield from (Completion(w, -len(last)) for w in known if w.startswith(last))
            return
        for item in self._clicks.get_completions(words, last):
            if item.type in ("file", "dir"):
                yield from self._paths.get_completions(Document(last), complete_event)
            else:
                yield Completion(item.value, -len(last), display_meta=item.help or "")


def _split(text: str) -> tuple[list[str], str]:
    """The words before the one at the cursor, and that one as far as it is typed."""
    head, _, last = text.rpartition(" ")
    try:
        return shlex.split(head), last
    except ValueError:  # within quotes
        return head.split(), last


def _output() -> Output:
    """The terminal, never asked where its cursor is: some do not answer, and two seconds pass."""
    output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
    output.enable_cpr = False
    return output


def history(path: Path) -> History:
    """Lines of earlier sessions, for their writer's eyes only."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return _DiscreetHistory(str(path))


class _DiscreetHistory(FileHistory):
    """What holds a token is not written down."""

    def store_string(self, string: str) -> None:
        if not _TOKEN.search(string):
            super().store_string(string)

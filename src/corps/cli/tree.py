"""The command tree, the same for one-shot and shell, and the door where errors become exit codes.

A command's module is imported when the command is used.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import master_options
from corps.errors import INTERRUPTED_EXIT_CODE, CorpsError, Malformed
from corps.model.name import did_you_mean

PROGRAM = "corps"
MODULES = {
    "up": "daemons",
    "down": "daemons",
    "master": "daemons",
    "worker": "daemons",
    "keeper": "services",
    "systemd": "services",
    "join": "join",
    "shell": "shell",
    "workers": "workers",
    "check": "check",
    "copy": "artifacts",
    "progress": "copies",
    "artifacts": "artifacts",
    "delete": "artifacts",
    "tag": "upkeep",
    "sign": "sign",
    "secret": "secret",
    "launch": "launch",
    "ps": "apps",
    "stop": "apps",
    "kill": "apps",
    "signal": "apps",
    "usage": "usage",
    "logs": "logs",
    "why": "why",
    "audit": "audit",
    "rm": "apps",
    "events": "workers",
    "login": "login",
    "logout": "login",
    "context": "login",
    "whoami": "login",
    "token": "access",
    "user": "access",
    "ca": "access",
    "version": "workers",
}
_BREAK = re.compile(r"\s*\n\s*")  # click lists choices one a line
WORKER_REVOKE = ["worker", "revoke"]  # all else of 'corps worker' is the daemon's


class Tree(click.Group):
    """Every command by name; loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        command = getattr(import_module(f"corps.cli.{MODULES[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if args[:2] == WORKER_REVOKE:
            from corps.cli.access import worker_revoke  # noqa: PLC0415  # as all commands are

            return "worker revoke", worker_revoke, args[2:]
        if name not in MODULES and not name.startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(name, MODULES) or "; see 'corps --help'"
            raise Malformed(f"no command {name[:80]!r}{hint}")
        return super().resolve_command(ctx, args)


tree = Tree(
    PROGRAM,
    params=master_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Put programs on many Linux machines and keep the truth about them.",
    epilog="'corps COMMAND --help' says more. 'corps up' starts a cluster on this machine.",
)


def run(arguments: list[str], operator: Operator) -> int:
    """Carry out one command line; its exit status. Every error has been told on stderr.

    Raise BrokenPipeError when stdout is closed, and whatever a bug raises.
    """
    try:
        status = _run(arguments, operator)
        render.write(b"")  # what click printed, while its failure can still be told
        return status
    except CorpsError as error:
        render.error(error.message)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        render.error("interrupted")
        return INTERRUPTED_EXIT_CODE


def _run(arguments: list[str], operator: Operator) -> int:
    try:
        with tree.make_context(PROGRAM, list(arguments), obj=operator) as context:
            status: Any = tree.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        raise Malformed(
            f"give a command {_usage(error.ctx)}; see '{error.ctx.command_path} --help'"
        ) from error
    except click.UsageError as error:
        raise Malformed(f"{_sentence(error)} {_usage(error.ctx)}".strip()) from error
    except click.ClickException as error:
        raise Malformed(error.format_message()) from error
    return status if isinstance(status, int) else 0


def _sentence(error: click.UsageError) -> str:
    """Our own voice: lower case, no full stop, and what was meant."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for parameter in error.ctx.command.params for name in parameter.opts]
        return f"no option {error.option_name!r}{did_you_mean(error.option_name, known)}"
    message = _BREAK.sub(" ", error.format_message().rstrip("."))
    return message[:1].lower() + message[1:]


def _usage(context: click.Context | None) -> str:
    if context is None:
        return ""
    words = " ".join(context.get_usage().split())
    return f"({words[:1].lower()}{words[1:]})"

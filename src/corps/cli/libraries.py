"""Which libraries go with a program: the options that say so, and the list of what was decided."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from corps.cli import render
from corps.cli.options import Verb
from corps.cli.render import MISSING, Column, Listing
from corps.errors import Malformed, NotFound

if TYPE_CHECKING:
    from corps.pack.libraries import Choice
    from corps.pack.parcel import LibraryRow

R = TypeVar("R")
COMMAND = "corps.traced-command"
TRACE_MAX_S = 3_600.0


class Traceable(Verb):
    """With `--trace`, what follows `--` is a command to run, and PATH may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before, mark, after = args, "", []
        if "--" in args:
            at = args.index("--")
            before, mark, after = args[:at], "--", args[at + 1 :]
        if "--trace" not in before:
            return super().parse_args(ctx, args)
        if not mark or not after:
            raise Malformed("--trace runs a program once: give it behind --, with its arguments")
        ctx.meta[COMMAND] = tuple(after)
        return super().parse_args(ctx, before)


class Picked(NamedTuple):
    """What `pack` wants to know: the files of --lib, and what is said by name."""

    libraries: list[Path]
    choice: Choice


def library_options(function: Callable[..., R]) -> Callable[..., Any]:
    """`--no-lib` and `--system-lib`, beside the `--lib` and `--no-libs` of the command."""
    left_out = click.option(
        "--no-lib",
        "left_out",
        multiple=True,
        metavar="NAME",
        help="Leave this library out; nobody asks whether a worker has it.",
    )
    system = click.option(
        "--system-lib",
        "system_libs",
        multiple=True,
        metavar="NAME",
        help="Each worker must have this library itself.",
    )
    return left_out(system(function))


def trace_options(function: Callable[..., R]) -> Callable[..., Any]:
    """`--trace` and `--trace-for`."""
    is_traced = click.option(
        "--trace",
        "is_traced",
        is_flag=True,
        help="Run the command behind -- once, here, and add the libraries it opens.",
    )
    seconds = click.option(
        "--trace-for",
        "trace_s",
        type=click.FloatRange(0.1, TRACE_MAX_S),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long it may run: SIGTERM then, and SIGKILL 2 s later.",
    )
    return is_traced(seconds(function))


def to_copy(path: str | None) -> str:
    """PATH; without one, the program that is traced."""
    if path is not None:
        return path
    command = _command()
    if not command:
        raise Malformed("give the PATH of what to copy")
    return _program(command)


def opened(trace_s: float) -> dict[str, tuple[str, ...]]:
    """Runs what stands behind `--`, if it is to be traced: program -> what it mapped."""
    command = _command()
    if not command:
        return {}
    from corps.pack.opened import trace  # noqa: PLC0415  # only what packs needs it

    found = trace([_program(command), *command[1:]], trace_s)
    if found.is_over and found.status:
        how = f"exited {found.status}" if found.status > 0 else f"died of signal {-found.status}"
        render.note(f"corps: warning: '{command[0]}' {how} while it was traced")
    return found.mapped


def picked(
    libraries: Sequence[str],
    left_out: Sequence[str],
    system: Sequence[str],
    opened: dict[str, tuple[str, ...]] | None = None,
) -> Picked:
    """A `--lib` that is no file and has no slash is the name of a library that shall travel."""
    from corps.pack.libraries import Choice  # noqa: PLC0415  # as above

    names = [text for text in libraries if text and "/" not in text and not os.path.exists(text)]
    return Picked(
        [Path(text) for text in libraries if text not in names],
        Choice(
            travelling=tuple(names),
            left_out=tuple(left_out),
            system=tuple(system),
            opened=opened or {},
        ),
    )


def _command() -> tuple[str, ...]:
    command: tuple[str, ...] = click.get_current_context().meta.get(COMMAND, ())
    return command


def _program(command: Sequence[str]) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise NotFound(f"no program '{command[0]}': give its path, and make it executable")
    return program


LIBRARIES: Listing[LibraryRow] = Listing(
    lambda row: row.name,
    (
        Column("LIBRARY", lambda row: row.name),
        Column("TRAVELS", lambda row: "yes" if row.travels else "no"),
        Column("WHY", lambda row: row.why),
        Column("ASKED BY", lambda row: row.asked_by or MISSING),
        Column("PATH", lambda row: row.path or MISSING),
        Column("VERSIONS", lambda row: " ".join(row.versions) or MISSING, is_wide=True),
    ),
)

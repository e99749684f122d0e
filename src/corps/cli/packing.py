"""What copy and check have in common: the options that say what PATH becomes, and packing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from corps.cli import render
from corps.cli.kind import kind_options, words_of
from corps.cli.libraries import library_options, opened, picked, to_copy, trace_options
from corps.model.name import check_name

if TYPE_CHECKING:
    from corps.pack.parcel import Packed

R = TypeVar("R")


class PackOptions(TypedDict):
    path: str | None
    name: str | None
    entry: str | None
    libraries: tuple[str, ...]
    no_libs: bool
    left_out: tuple[str, ...]
    system_libs: tuple[str, ...]
    is_traced: bool
    trace_s: float
    kind: str | None
    runner: str
    python: str | None


def pack_options(function: Callable[..., R]) -> Callable[..., Any]:
    """PATH and all that is said of it."""
    options = (
        click.argument(
            "path", type=click.Path(), metavar="PATH [--trace -- PROG ARG...]", required=False
        ),
        click.option("--name", metavar="NAME", help="What to call it; else the name of the file."),
        click.option("--entry", metavar="FILE", help="What to execute in a directory."),
        click.option(
            "--lib",
            "libraries",
            multiple=True,
            type=click.Path(),
            metavar="FILE",
            help="One more library.",
        ),
        click.option("--no-libs", is_flag=True, help="Leave out the libraries it needs."),
        library_options,
        trace_options,
        kind_options,
    )
    for option in reversed(options):
        function = option(function)
    return function


def target_of(options: PackOptions) -> str:
    """What is to be packed. Raise what is wrong with it before anybody is asked."""
    from corps.pack.kinds import check_no_url  # noqa: PLC0415  # only what packs needs it

    target = to_copy(options["path"])
    check_no_url(target)
    return target


@contextmanager
def packing(options: PackOptions, target: str) -> Iterator[tuple[str, Packed]]:
    """The name and what it is made of, while its files are there; every warning is told."""
    from corps.pack import kinds  # noqa: PLC0415  # as above
    from corps.pack.build import pack  # noqa: PLC0415  # as above

    path = Path(target)
    wish = kinds.Wish(
        kind=kinds.Kind(options["kind"]) if options["kind"] else None,
        entry=options["entry"],
        runner=words_of(options["runner"]),
        python=options["python"],
    )
    name = check_name("artifact", options["name"] or kinds.name_of(path, kinds.kind_of(path, wish)))
    libraries, choice = picked(
        options["libraries"],
        options["left_out"],
        options["system_libs"],
        opened(options["trace_s"]),
    )
    with kinds.prepared(path, wish) as prepared:
        packed = pack(
            prepared.source,
            entry=prepared.entry,
            libraries=libraries,
            with_libraries=not options["no_libs"],
            choice=choice,
            form=prepared.form,
        )
        for warning in packed.warnings:
            render.note(f"corps: warning: {warning}")
        yield name, packed

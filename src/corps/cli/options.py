"""What commands have in common: how they are declared, their options, and whom they aim at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from corps.cli.operator import Operator, ask
from corps.cli.render import Output
from corps.cli.vocabulary import Noun
from corps.errors import Malformed
from corps.model.command import TARGETS_MAX
from corps.model.instance import InstanceState
from corps.model.name import split_instance_id
from corps.model.view import InstanceView

R = TypeVar("R")
NAMED_MAX = 10
ALL = "--all"


class Name(click.ParamType[str]):
    """A name that the master knows; a list of them may be separated by commas."""

    def __init__(self, noun: Noun) -> None:
        self.name = noun.value
        self._noun = noun

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        head, comma, last = incomplete.rpartition(",")
        words = ctx.obj.vocabulary.words(self._noun)
        return [CompletionItem(head + comma + word) for word in words if word.startswith(last)]


TARGET = Name(Noun.TARGET)
ARTIFACT = Name(Noun.ARTIFACT)
SELECTOR = Name(Noun.WORKER)
CHILD = Name(Noun.CHILD)
USER = Name(Noun.USER)
TOKEN = Name(Noun.TOKEN)
SECRET = Name(Noun.SECRET)


class Verb(click.Command):
    """A command. It may be told the master itself, as `corps` may before it."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        known = {name for parameter in self.params for name in parameter.opts}
        self.params += [
            option for option in master_options(is_hidden=True) if known.isdisjoint(option.opts)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.obj.interrupted()
            raise


def verb(name: str, kind: type[Verb] = Verb) -> Callable[[Callable[..., Any]], Verb]:
    return click.command(name, cls=kind)


def master_options(*, is_hidden: bool = False) -> list[click.Parameter]:
    """Which master, and as whom."""
    options = {
        "--dir": ("DIR", "State directory."),
        "--server": ("URL", "Another master: https://HOST:PORT, unix:///path/of/api.sock."),
        "--context": ("NAME", "Another master: one of 'corps context', or 'local'."),
        "--token-file": ("FILE", "With a person's token, for --server; else CORPS_TOKEN."),
    }
    return [
        click.Option(
            [name],
            metavar=metavar,
            help=text,
            callback=_other_master,
            expose_value=False,
            hidden=is_hidden,
        )
        for name, (metavar, text) in options.items()
    ]


def _other_master(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        assert parameter.name is not None
        context.obj = context.obj.elsewhere(**{parameter.name: value})


def _to_output(context: click.Context, parameter: click.Parameter, value: str) -> Output:
    return Output(value)


def _output_option(outputs: Iterable[Output]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice([output.value for output in outputs]),
        default=Output.TABLE.value,
        callback=_to_output,
        help="How to show it.",
    )


output_option = _output_option(output for output in Output if output is not Output.CSV)
figures_option = _output_option(Output)
progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    help="Say how far it is: bars on a terminal, as is usual there, else lines.",
)


all_option = click.option(ALL, "is_all", is_flag=True, help="Every instance.")


class Aim(msgspec.Struct, frozen=True):
    """The instances an operator means, and whether that was said twice (`-y`)."""

    targets: tuple[str, ...]
    is_all: bool
    is_sure: bool = False

    def check(self) -> None:
        """Raise Malformed unless it is either some targets or `--all`."""
        if self.is_all and self.targets:
            raise Malformed("give TARGET or --all, not both")
        if not self.is_all and not self.targets:
            raise Malformed("give a TARGET (an instance web.3 or an app web), or --all")

    def find(
        self, operator: Operator, verb: str, is_meant: Callable[[InstanceView], bool]
    ) -> tuple[str, ...]:
        """The instances to `verb`; asks first when they are several. Empty: none of `--all`."""
        self.check()
        if len(self.targets) == 1 and split_instance_id(self.targets[0]) is not None:
            return self.targets  # whatever it is: the master answers for one
        rows = operator.client.instances(self.targets, with_dead=True)
        ids = tuple(row.id for row in rows if is_meant(row) or row.id in self.targets)
        if len(ids) > 1 and not self.is_sure:
            more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
            ask(f"{verb} {len(ids)} instances ({' '.join(ids[:NAMED_MAX])}{more})")
        if len(ids) > TARGETS_MAX:
            return self.targets or (ALL,)
        return ids or self.targets


def is_dead(row: InstanceView) -> bool:
    return row.state == InstanceState.DEAD


def is_live(row: InstanceView) -> bool:
    return not is_dead(row)


def aimed(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command TARGET..., `--all` and `-y`; it gets them as `aim`."""

    @click.argument("targets", nargs=-1, type=TARGET, metavar="TARGET...")
    @all_option
    @click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")
    @wraps(function)
    def with_aim(
        *args: Any, targets: tuple[str, ...], is_all: bool, is_sure: bool, **options: Any
    ) -> R:
        return function(*args, aim=Aim(targets, is_all, is_sure), **options)

    return with_aim

"""why: the chain of causes of an instance, a sentence a line, with times."""

from __future__ import annotations

import shutil
import sys
import textwrap

import click

from corps.cli import render
from corps.cli.escape import escape_line
from corps.cli.operator import Operator
from corps.cli.options import ALL, TARGET, Aim, all_option, output_option, verb
from corps.cli.render import Listing, Output
from corps.model.view import SentenceView, WhyView

TOLD_MAX = 100  # instances at once; the newest news first of all
LINE_MAX = 240  # of an app's output; -o wide shows all that was kept
NARROW_COLUMNS = 70
COLUMNS_MIN = 20
TIME_CHARS = len("2026-11-23T13:28:00.123Z")


@verb("why")
@click.argument("targets", nargs=-1, type=TARGET, metavar="TARGET...")
@all_option
@click.option(
    "--attempt", type=click.IntRange(1), metavar="K", help="Tell this attempt, not the present one."
)
@output_option
@click.pass_obj
def why(
    operator: Operator,
    targets: tuple[str, ...],
    is_all: bool,
    attempt: int | None,
    output: Output,
) -> None:
    """Tell how it came to where it is now: placed, launched, died, by whom, with evidence.

    Of many instances only those with the newest news are told.
    """
    Aim(targets, is_all).check()
    only = {} if attempt is None else {"attempt": attempt}
    rows = operator.client.why(targets or (ALL,), limit=TOLD_MAX + 1, **only)
    if len(rows) > TOLD_MAX:
        oldest = min(rows, key=lambda row: row.instance.ended_at or "~")
        rows = [row for row in rows if row is not oldest]
        render.note(f"more than {TOLD_MAX}: only the newest news are told; name an instance")
    if output not in (Output.TABLE, Output.WIDE):
        render.show(rows, STORIES, output)
        return
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        if len(rows) > 1:
            render.write_lines([f"{row.instance.id}:"])
        for sentence in row.sentences:
            render.write_lines(lines_of(sentence, columns, is_wide=output is Output.WIDE))


def lines_of(sentence: SentenceView, columns: int | None, *, is_wide: bool = False) -> list[str]:
    """`TIME  SENTENCE`, wrapped to a terminal's columns; long output is cut, unless wide."""
    text = escape_line(sentence.text)
    if text.startswith(" ") and len(text) > LINE_MAX and not is_wide:
        text = f"{text[:LINE_MAX]} [cut: {len(text) - LINE_MAX} characters]"
    time = sentence.at or ""
    if columns is None or is_wide:
        return [f"{time:{TIME_CHARS}}  {text}"]
    columns = max(columns, COLUMNS_MIN)
    is_narrow = columns < NARROW_COLUMNS
    indent = 2 if is_narrow else TIME_CHARS + 2
    quote = text[: len(text) - len(text.lstrip())]  # a line of output stays below its heading
    lines = textwrap.wrap(
        text.lstrip(),
        columns - indent - len(quote),
        break_on_hyphens=False,
        subsequent_indent="" if not quote else "  ",
    ) or [""]
    told = [f"{' ' * indent}{quote}{line}" for line in lines]
    if is_narrow:
        return [time[:columns], *told] if time else told
    told[0] = f"{time:{TIME_CHARS}}  {quote}{lines[0]}"
    return told


STORIES: Listing[WhyView] = Listing(lambda row: row.instance.id, ())

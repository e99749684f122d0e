"""The only room that prints: tables, JSON and bytes on stdout, everything else on stderr.

A table on a terminal is drawn by rich, loaded then; piped it is plain columns, never cut.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

from corps.cli.escape import escape_json, escape_line
from corps.errors import CorpsError, Failed
from corps.model import measure

Row = TypeVar("Row")
MISSING = "-"
WIDE_COLUMNS = 10_000  # a wide table is the terminal's to wrap, not ours to fold
_STYLES = {
    "ready": "green",
    "running": "green",
    "sleeping": "green",
    "suspect": "yellow",
    "unknown": "yellow",
    "stopping": "yellow",
    "lost": "red",
    "dead": "red",
}


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    NAME = "name"
    CSV = "csv"


class Column(msgspec.Struct, Generic[Row], frozen=True):
    """One column of a table: `cell` is what a row says there."""

    title: str
    cell: Callable[[Row], str]
    is_wide: bool = False


class Listing(msgspec.Struct, Generic[Row], frozen=True):
    """How rows of one kind are shown; `name` is what `-o name` prints."""

    name: Callable[[Row], str]
    columns: tuple[Column[Row], ...]
    csv: tuple[tuple[str, Callable[[Row], object]], ...] = ()


def show(rows: Sequence[Row], listing: Listing[Row], output: Output) -> None:
    """Rows on stdout, the way the operator asked."""
    match output:
        case Output.JSON:
            write_json(rows)
        case Output.JSONL:
            for row in rows:
                write_json(row, is_line=True)
        case Output.NAME:
            write_lines(listing.name(row) for row in rows)
        case Output.CSV:
            write(csv_text(rows, listing).encode())
        case Output.TABLE | Output.WIDE:
            columns = [c for c in listing.columns if output is Output.WIDE or not c.is_wide]
            cells = [[escape_line(c.cell(row)) for c in columns] for row in rows]
            _table(
                [c.title for c in columns], cells, WIDE_COLUMNS if output is Output.WIDE else None
            )


def csv_fields(
    names: str, of: Callable[[Any], object] = lambda row: row, prefix: str = ""
) -> tuple[tuple[str, Callable[[Any], object]], ...]:
    """A column for each of these fields of what `of` finds in a row; empty where it finds None."""

    def field(name: str) -> Callable[[Any], object]:
        return lambda row: getattr(of(row), name, None)

    return tuple((f"{prefix}{name}", field(name)) for name in names.split())


def csv_text(rows: Sequence[Row], listing: Listing[Row]) -> str:
    """RFC 4180 with a line of titles; what is missing is empty, times and numbers as in JSON."""
    lines = [",".join(title for title, _ in listing.csv)]
    lines += [",".join(_csv_cell(value(row)) for _, value in listing.csv) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _csv_cell(value: object) -> str:
    """A text that a spreadsheet would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    text = escape_line(str(value))
    if isinstance(value, str) and text.startswith(("=", "+", "-", "@")):
        text = f"'{text}"
    if any(mark in text for mark in ',"'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def show_more(rows: Sequence[Row], listing: Listing[Row], output: Output) -> None:
    """Rows of a listing that has no end: one line each."""
    if output in (Output.JSONL, Output.NAME):
        show(rows, listing, output)
        return
    columns = [c for c in listing.columns if output is Output.WIDE or not c.is_wide]
    write_lines("  ".join(c.cell(row) for c in columns) for row in rows)


def write_json(value: object, *, is_line: bool = False) -> None:
    """JSON on stdout: indented on a terminal, where nothing in it is obeyed; else one line."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        if not is_line:
            data = msgspec.json.format(data)
        data = escape_json(data.decode()).encode()
    write(data + b"\n")


def write_lines(lines: Iterable[str]) -> None:
    write("".join(f"{escape_line(line)}\n" for line in lines).encode())


def write(data: bytes) -> None:
    """These bytes on stdout, as they are."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _cannot_write(error) from error


def note(text: str) -> None:
    """One line for the operator, on stderr."""
    with suppress(OSError):  # a terminal that is gone must not keep us from ending
        print(escape_line(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    note(f"corps: {text}")


def bug(error: Exception) -> int:
    """Tell what a bug report needs; the exit status."""
    import traceback  # noqa: PLC0415  # 10 ms that only a bug costs

    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    note(f"corps: a bug, please report it: {type(error).__name__}: {error}")
    return CorpsError.exit_code


def takes_colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def in_colour(text: str, number: int) -> str:
    """`text` in one of six colours when stdout takes colours."""
    if not takes_colours():
        return text
    return f"\x1b[{31 + number % 6}m{text}\x1b[0m"


def size(size_bytes: int | None) -> str:
    return MISSING if size_bytes is None else measure.size(size_bytes)


def duration(seconds: float | None) -> str:
    return MISSING if seconds is None else measure.duration(seconds)


def number(value: int | None) -> str:
    return MISSING if value is None else str(value)


def short(digest: str) -> str:
    """Enough of a digest to tell versions apart."""
    return digest[:12]


def _table(titles: list[str], rows: list[list[str]], width: int | None) -> None:
    if sys.stdout.isatty():
        _rich_table(titles, rows, width)
        return
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [titles, *rows]
    )
    write("".join(f"{line}\n" for line in lines).encode())


def _rich_table(titles: list[str], rows: list[list[str]], width: int | None) -> None:
    from rich.console import Console  # noqa: PLC0415  # 60 ms that only a drawn table costs
    from rich.table import Table  # noqa: PLC0415  # as above
    from rich.text import Text  # noqa: PLC0415  # as above

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, _STYLES.get(cell.partition(":")[0], "")) for cell in row))
    console = Console(highlight=False, width=width)
    if os.environ.get("NO_COLOR"):
        console = Console(highlight=False, width=width, color_system=None)
    try:
        console.print(table)
    except OSError as error:
        raise _cannot_write(error) from error


def abandon_stdout() -> None:
    """What is still buffered goes nowhere, instead of failing once more at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())


def _cannot_write(error: OSError) -> Exception:
    abandon_stdout()
    if error.errno == errno.EPIPE:
        return BrokenPipeError(errno.EPIPE, "stdout is closed")
    return Failed(f"cannot write the output: {os.strerror(error.errno or 0).lower()}")

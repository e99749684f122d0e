"""Plots in plain text: one column for each moment, as tall as the value; gaps where none is known.

Blocks of an eighth where the terminal's character set has them, else `#`.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence

HEIGHT = 4
WIDTH_MIN = 20
WIDTH_MAX = 200
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " #"

Series = Sequence[tuple[float, float | None]]


def terminal_width() -> int:
    return min(max(shutil.get_terminal_size().columns, WIDTH_MIN), WIDTH_MAX)


def has_blocks() -> bool:
    """Whether the operator's locale, locale(7), and terminal have more than ASCII."""
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    chosen = next((value for name in names if (value := os.environ.get(name))), "C")
    is_utf8 = "utf8" in chosen.lower().replace("-", "")
    return is_utf8 and os.environ.get("TERM") not in ("dumb", "vt100")


def plot(
    title: str, series: Series, text: Callable[[float], str], width: int, *, blocks: bool
) -> list[str]:
    """Lines no longer than `width`: a title with the largest value, then HEIGHT rows above zero;
    the title alone for what never changed."""
    levels = BLOCKS if blocks else ASCII
    known = [value for _, value in series if value is not None]
    if not known:
        return [f"{title}: nothing is known"[:width]]
    top = max(known)
    if min(known) == top:
        return [f"{title}: {text(top)} all the time"[:width]]
    columns = _columns(series, width - 2)
    steps = len(levels) - 1
    cells = [_cell(value, top, HEIGHT * steps) for value in columns]
    frame = "│" if blocks else "|"
    lines = [f"{title}: largest {text(top)}, last {text(known[-1])}"[:width]]
    for row in range(HEIGHT - 1, -1, -1):
        filled = (levels[min(max(cell - row * steps, 0), steps)] for cell in cells)
        lines.append(f"{frame} {''.join(filled)}".rstrip())
    lines.append(("└" if blocks else "+") + ("─" if blocks else "-") * (width - 1))
    return lines


def _columns(series: Series, width: int) -> list[float | None]:
    """The largest value of each stretch of time; between two points the later one holds."""
    begin, end = series[0][0], series[-1][0]
    if len(series) == 1 or end <= begin:
        return [series[-1][1]]
    columns: list[float | None] = [series[0][1]] + [None] * (width - 1)
    for (before, _), (at, value) in itertools.pairwise(series):
        if value is None:
            continue
        first = int((before - begin) / (end - begin) * (width - 1)) + 1
        last = int((at - begin) / (end - begin) * (width - 1))
        for column in range(min(first, last), last + 1):
            known = columns[column]
            columns[column] = value if known is None else max(known, value)
    return columns


def _cell(value: float | None, top: float, height: int) -> int:
    """How many steps are filled: at least one for what is above zero."""
    if value is None or value <= 0 or top <= 0:
        return 0
    return max(1, round(value / top * height))

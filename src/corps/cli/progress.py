"""Showing what travels while it does: bars on a terminal, plain lines for whoever asks for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from corps.cli import render
from corps.cli.pace import Pace
from corps.clock import Clock
from corps.errors import CorpsError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOOK_S = 0.2
LINES_EVERY_S = 2.0
SHOWN_MAX = 15


class Lap(NamedTuple):
    """How far one transfer is; `result` once it is over."""

    title: str
    done_bytes: int
    total_bytes: int
    peers_bytes: int = 0
    result: str | None = None


Look: TypeAlias = Callable[[], Sequence[Lap]]


class Display(Protocol):
    """What a person or a log sees of laps, each time somebody looked."""

    def show(self, laps: Sequence[Lap]) -> None: ...

    def close(self) -> None: ...


def display(wanted: bool | None) -> Display | None:
    """Bars on a terminal, lines elsewhere when they are `wanted`; None means: as is usual."""
    if wanted is not False and sys.stderr.isatty():
        return Bars()
    return Lines() if wanted else None


@contextmanager
def watching(shown: Display | None, look: Look) -> Iterator[None]:
    """Show what `look` finds, in a thread of its own, while the block runs and as it ends."""
    if shown is None:
        yield
        return
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(shown, look, is_over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        shown.close()


def _watch(shown: Display, look: Look, is_over: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = is_over.wait(LOOK_S)
        try:
            laps = look()
        except CorpsError:
            continue  # only for the eye: the command itself will say what is wrong
        shown.show(laps)


class Lines:
    """One line for each transfer every few seconds, and one when it is over."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._paces = Paces()
        self._said: dict[str, str] = {}
        self._lines_at = 0.0

    def show(self, laps: Sequence[Lap]) -> None:
        now = self._clock()
        self._paces.add(now, laps)
        is_due = now >= self._lines_at
        if is_due:
            self._lines_at = now + LINES_EVERY_S
        for lap in laps if len(laps) <= SHOWN_MAX else summary(laps):
            text = self._paces.describe(lap)
            if (is_due or lap.result is not None) and self._said.get(lap.title) != text:
                self._said[lap.title] = text
                render.note(f"{lap.title}: {text}")

    def close(self) -> None:
        """Nothing is left to be drawn."""


class Bars:
    """One bar for each transfer; gone when all is over."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._paces = Paces()
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None

    def show(self, laps: Sequence[Lap]) -> None:
        self._paces.add(self._clock(), laps)
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        shown = {lap.title: lap for lap in (laps if len(laps) <= SHOWN_MAX else summary(laps))}
        for title, task in self._tasks.items():
            self._bars.update(task, visible=title in shown)
        for lap in shown.values():
            if lap.title not in self._tasks:
                self._tasks[lap.title] = self._bars.add_task(lap.title, total=None, text="")
            self._bars.update(
                self._tasks[lap.title],
                completed=lap.done_bytes,
                total=lap.total_bytes,
                text=self._paces.describe(lap),
            )

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}


class Paces:
    """The pace of each transfer, by its title."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def add(self, now: float, laps: Sequence[Lap]) -> None:
        for lap in (*laps, total(laps)):
            self._paces.setdefault(lap.title, Pace()).add(now, lap.done_bytes)

    def describe(self, lap: Lap) -> str:
        """`3.0 MiB of 9.0 MiB (33 %), 1.5 MiB/s, 4.0 s left`."""
        if lap.result is not None:
            return lap.result
        pace = self._paces[lap.title]
        rate, left_s = pace.rate_bytes_s(), pace.left_s(lap.total_bytes)
        words = [f"{render.size(lap.done_bytes)} of {render.size(lap.total_bytes)}"]
        if lap.total_bytes:
            words[0] += f" ({100 * lap.done_bytes // lap.total_bytes} %)"
        if lap.peers_bytes:
            words.append(f"{render.size(lap.peers_bytes)} from other workers")
        if lap.done_bytes >= lap.total_bytes:
            return ", ".join(words)
        if rate is not None:
            words.append(f"{render.size(round(rate))}/s" if rate else "nothing comes")
        if left_s is not None:
            words.append(f"{render.duration(left_s)} left")
        return ", ".join(words)


def total(laps: Sequence[Lap]) -> Lap:
    """All of them as one."""
    over = sum(lap.result is not None for lap in laps)
    return Lap(
        f"all {len(laps)}",
        sum(lap.done_bytes for lap in laps),
        sum(lap.total_bytes for lap in laps),
        sum(lap.peers_bytes for lap in laps),
        f"{over} over" if laps and over == len(laps) else None,
    )


def summary(laps: Sequence[Lap]) -> list[Lap]:
    """All of them as one, and those that have the most before them."""
    open_laps = [lap for lap in laps if lap.result is None]
    open_laps.sort(key=lambda lap: lap.done_bytes - lap.total_bytes)
    return [total(laps), *open_laps[: SHOWN_MAX - 1]]


def _bars() -> Progress:
    from rich import progress  # noqa: PLC0415  # as below
    from rich.console import Console  # noqa: PLC0415  # 90 ms that only a terminal costs

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )

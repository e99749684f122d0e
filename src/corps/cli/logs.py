"""logs: the captured output of instances, to read, to follow, or to bring back as a file."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import click
import msgspec

from corps.cli import render
from corps.cli.escape import PrefixedLines, TerminalText
from corps.cli.fetch import fetch_log
from corps.cli.operator import Operator, persist
from corps.cli.options import TARGET, Aim, all_option, verb
from corps.client import Client, LogSlice
from corps.errors import CorpsError, Invalid, Malformed, NotFound, Unavailable
from corps.model.view import InstanceView

FOLLOWED_MAX = 64
FOLLOW_LINES = 10
FOLLOW_WAIT_S = 20.0
QUEUE_MAX = 256
TAIL_BYTES = 64 << 10
TAIL_MAX_BYTES = 16 << 20
STREAMS = ("stdout", "stderr")


class LogOptions(TypedDict):
    targets: tuple[str, ...]
    is_all: bool
    follow: bool
    lines: int | None
    since: str | None
    stream: str | None
    file: str | None


@verb("logs")
@click.argument("targets", nargs=-1, type=TARGET, metavar="TARGET...")
@all_option
@click.option("-f", "--follow", is_flag=True, help="Go on until they are dead, or ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 1_000_000), metavar="N", help="The last N.")
@click.option("--since", metavar="T", help="Not yet: lines have no times.")
@click.option("--stream", type=click.Choice(STREAMS), help="One of both.")
@click.option("-o", "file", metavar="FILE", help="Bring it back, all of it, as it was written.")
@click.pass_obj
def logs(operator: Operator, **options: Unpack[LogOptions]) -> None:
    """Show the captured output of one or many instances, dead ones too.

    All of it; with -f the last 10 lines and what comes. On a terminal control characters are
    spelled out; piped or with -o FILE every byte is as the app wrote it.
    """
    if options["since"] is not None:
        raise Invalid("no --since yet: the lines of a log have no times; use -n", field="since")
    aim = Aim(options["targets"], options["is_all"])
    aim.check()
    rows = operator.client.instances(aim.targets, with_dead=True)
    streams = STREAMS if options["stream"] is None else (options["stream"],)
    if options["file"] is not None:
        _bring_back(operator.client, rows, streams, options)
        return
    slices = [_slice(row, stream) for row in rows for stream in streams]
    show = Display(slices)
    if options["follow"]:
        lines = FOLLOW_LINES if options["lines"] is None else options["lines"]
        _follow(operator.client, slices, lines, show)
        return
    _print(operator.client, slices, options["lines"], show)


class Step(Protocol):
    """What is done to the bytes of one log on their way to stdout."""

    def feed(self, data: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Display:
    """Several logs on one stdout. When they are of several instances, each line says of which."""

    def __init__(self, slices: Sequence[LogSlice]) -> None:
        instances = list(dict.fromkeys(slice.instance for slice in slices))
        width = max(map(len, instances), default=0)
        self._steps: dict[tuple[str, str], list[Step]] = {}
        for slice in slices:
            steps: list[Step] = [TerminalText()] if sys.stdout.isatty() else []
            if len(instances) > 1:
                prefix = f"{slice.instance.ljust(width)} | "
                coloured = render.in_colour(prefix, instances.index(slice.instance))
                steps.append(PrefixedLines(coloured.encode()))
            self._steps[_key(slice)] = steps

    def feed(self, slice: LogSlice, data: bytes) -> None:
        for step in self._steps[_key(slice)]:
            data = step.feed(data)
        render.write(data)

    def end(self, slice: LogSlice) -> None:
        data = b""
        for step in self._steps[_key(slice)]:
            data = step.feed(data) + step.end()
        render.write(data)


def read_all(client: Client, slice: LogSlice) -> Iterator[bytes]:
    """The log from `slice.offset` to where it ended when this began."""
    chunk, data = client.log(slice)
    if chunk.offset > slice.offset >= 0:
        gone = chunk.offset - slice.offset
        render.note(f"corps: {slice.instance} {slice.stream}: the oldest {gone} bytes are gone")
    end = chunk.size_bytes
    while data:
        yield data
        if chunk.next_offset >= end:
            return
        chunk, data = client.log(msgspec.structs.replace(slice, offset=chunk.next_offset))


def from_last_lines(client: Client, slice: LogSlice, count: int) -> LogSlice:
    """The log from its last `count` lines on, or from its last TAIL_MAX_BYTES if those are less."""
    window = TAIL_BYTES
    while True:
        tail = msgspec.structs.replace(slice, offset=-window)
        chunk, data = client.log(tail)
        first = chunk.offset
        while chunk.next_offset < chunk.size_bytes and chunk.next_offset - first < window:
            tail = msgspec.structs.replace(tail, offset=chunk.next_offset)
            chunk, more = client.log(tail)
            if not more:
                break
            data += more
        start = _last_lines(data, count)
        if start is not None:
            return msgspec.structs.replace(slice, offset=first + start)
        if window >= TAIL_MAX_BYTES or chunk.size_bytes - first < window:
            return msgspec.structs.replace(slice, offset=first)
        window *= 4


def _last_lines(data: bytes, count: int) -> int | None:
    """Where the last `count` lines begin; None if `data` has no more than those."""
    if count == 0:
        return len(data)
    position = len(data) - data.endswith(b"\n")
    for _ in range(count):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return None
    return position + 1


def _slice(row: InstanceView, stream: str) -> LogSlice:
    return LogSlice(instance=row.id, stream=stream, attempt=row.attempt)


def _key(slice: LogSlice) -> tuple[str, str]:
    return slice.instance, slice.stream


class _Ended(msgspec.Struct, frozen=True):
    """Nothing more comes of a log; `error` says why if it is not its end."""

    error: CorpsError | None = None


def _print(client: Client, slices: Sequence[LogSlice], lines: int | None, show: Display) -> None:
    """One log after the other. Those whose worker is away do not keep the others back."""
    instances = {slice.instance for slice in slices}
    failed: dict[str, CorpsError] = {}
    for slice in slices:
        if slice.instance in failed:
            continue
        try:
            begin = slice if lines is None else from_last_lines(client, slice, lines)
            for data in read_all(client, begin):
                show.feed(slice, data)
        except (NotFound, Unavailable) as error:
            if len(instances) == 1:
                raise
            failed[slice.instance] = error
            render.error(error.message)
        show.end(slice)
    if failed:
        raise Unavailable(f"{len(failed)} of {len(instances)} instances have no log to show now")


def _follow(client: Client, slices: Sequence[LogSlice], lines: int, show: Display) -> None:
    if len(slices) > FOLLOWED_MAX:
        raise Invalid(f"{len(slices)} logs to follow: at most {FOLLOWED_MAX}", field="targets")
    arrivals: queue.Queue[tuple[LogSlice, bytes | _Ended]] = queue.Queue(QUEUE_MAX)
    for slice in slices:
        arguments = (Client(client.socket_path), slice, lines, arrivals)
        threading.Thread(target=_pump, args=arguments, daemon=True).start()
    followed, failed = len(slices), 0
    while followed:
        slice, arrival = arrivals.get()
        if isinstance(arrival, bytes):
            show.feed(slice, arrival)
            continue
        show.end(slice)
        followed -= 1
        if arrival.error is not None:
            failed += 1
            render.error(f"{slice.instance} {slice.stream}: {arrival.error.message}")
    if failed:
        raise Unavailable(f"{failed} of {len(slices)} logs could not be followed to the end")


def _pump(
    client: Client,
    slice: LogSlice,
    lines: int,
    arrivals: queue.Queue[tuple[LogSlice, bytes | _Ended]],
) -> None:
    """One log into the queue, until nobody writes it any more. Runs in a thread."""
    end = _Ended()
    try:
        begin = persist(partial(from_last_lines, client, slice, lines))
        while True:
            chunk, data = persist(partial(client.log, begin, FOLLOW_WAIT_S))
            if data:
                arrivals.put((slice, data))
            begin = msgspec.structs.replace(begin, offset=chunk.next_offset)
            if chunk.is_final and chunk.next_offset >= chunk.size_bytes:
                break
    except CorpsError as error:
        end = _Ended(error)
    finally:
        client.close()
        arrivals.put((slice, end))


def _bring_back(
    client: Client, rows: Sequence[InstanceView], streams: Sequence[str], options: LogOptions
) -> None:
    if options["follow"] or options["lines"] is not None:
        raise Malformed("-o FILE brings back all of a log: not with -f or -n")
    if len(rows) != 1:
        raise Malformed(f"-o FILE takes the log of one instance, not of {len(rows)}")
    assert options["file"] is not None
    size_bytes = fetch_log(client, rows[0], streams, Path(options["file"]))
    render.note(f"corps: {size_bytes} bytes of {rows[0].id} in {options['file']}")

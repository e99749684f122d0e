"""A copy from here to the workers: to the master first, then, without us, from there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from corps.cli import render
from corps.cli.progress import Display, Lap, watching
from corps.client import Client
from corps.clock import Clock
from corps.errors import Conflict, CorpsError
from corps.model.artifact import encode_manifest
from corps.model.command import Copied, Copy, Uploaded
from corps.model.name import Digest
from corps.model.view import WAITING, CopyView
from corps.net.bulk_client import BulkClient
from corps.pack.parcel import Packed

MASTER = "(master)"
PORTION_BYTES = 64 << 20  # what one of several that send the same takes upon itself at once
PORTION_FILES = 1_000
ASK_AGAIN_S = 0.1
TRIES_MAX = 3
LOOK_S = 2.0


def carry(client: Client, packed: Packed, command: Copy, shown: Display | None) -> Copied:
    """Upload what is missing, then wait for the workers. After ctrl-C, say what is left of it."""
    tries_left = TRIES_MAX
    while True:
        try:
            with _uploaded(client, packed, shown) as uploaded:
                return _wait(client, msgspec.structs.replace(command, uploaded=uploaded), shown)
        except Conflict as error:
            tries_left -= 1
            if "missing" not in error.details or not tries_left:
                raise
            # a file that was there when we asked was deleted with the last artifact that had it
        except KeyboardInterrupt:
            _tell_what_is_left(client, command.name)
            raise


def laps(rows: Sequence[CopyView]) -> list[Lap]:
    """How far each worker is."""
    return [
        Lap(
            row.worker,
            row.bytes_done,
            row.bytes_total,
            row.bytes_from_peers,
            None if row.result == WAITING else _result(row),
        )
        for row in rows
    ]


def _result(row: CopyView) -> str:
    if not row.seconds or not row.bytes_sent:
        return row.result
    rate = render.size(round(row.bytes_sent / row.seconds))
    sent = f"{render.size(row.bytes_sent)} in {render.duration(row.seconds)}"
    return f"{row.result}, {sent}, {rate}/s"


def _wait(client: Client, command: Copy, shown: Display | None) -> Copied:
    rows: tuple[CopyView, ...] = ()

    def look() -> list[Lap]:
        return laps(own.progress(client.under_way) if client.under_way else rows)

    with Client(client.endpoint) as own, watching(shown, look):
        copied = client.submit(command, Copied)
        rows = copied.workers
    return copied


@contextmanager
def _uploaded(client: Client, packed: Packed, shown: Display | None) -> Iterator[Uploaded | None]:
    """What had to be sent, if anything. Nothing of it goes from the master while the block runs."""
    clock = Clock()
    begin = clock()
    endpoint = client.endpoint
    with BulkClient(endpoint.connect_bulk, opening=endpoint.opening) as bulk:
        upload = Sender(bulk, packed)
        uploaded = None
        if upload.todo:
            with watching(shown, upload.look):
                upload.run()
            uploaded = Uploaded(
                bytes_sent=upload.sent_bytes,
                bytes_total=sum(file.size_bytes for file in packed.manifest.files),
                seconds=clock() - begin,
            )
        bulk.put_bytes(encode_manifest(packed.manifest))
        yield uploaded


class Sender:
    """Sends what nobody else sends, portion by portion; then waits for what others send.

    Two that send the same at the same time so share the work.
    """

    def __init__(self, bulk: BulkClient, packed: Packed) -> None:
        self._bulk = bulk
        self._sources: Mapping[Digest, Path] = packed.sources
        self._sizes = {file.digest: file.size_bytes for file in packed.manifest.files}
        self.todo = deque(bulk.missing(self._sources))
        self.total_bytes = self._size_bytes(self.todo)
        self.sent_bytes = 0
        self._shared: dict[Digest, int] = {}  # by others: how much of each is there

    def look(self) -> list[Lap]:
        done_bytes = min(self.sent_bytes + sum(self._shared.copy().values()), self.total_bytes)
        return [Lap(MASTER, done_bytes, self.total_bytes)]

    def run(self) -> None:
        waiting: list[Digest] = []
        while self.todo:
            waiting += self._put(self._portion())
        while waiting:
            time.sleep(ASK_AGAIN_S)
            waiting = self._put(waiting[:PORTION_FILES]) + waiting[PORTION_FILES:]

    def _portion(self) -> list[Digest]:
        portion = [self.todo.popleft()]
        left_bytes = PORTION_BYTES - self._size_bytes(portion)
        while self.todo and len(portion) < PORTION_FILES:
            left_bytes -= self._size_bytes((self.todo[0],))
            if left_bytes < 0:
                break
            portion.append(self.todo.popleft())
        return portion

    def _put(self, portion: list[Digest]) -> list[Digest]:
        """Send what is ours of these; what somebody else is sending."""
        claimed = self._bulk.claim(portion)
        if claimed.digests:
            self._bulk.check_room(self._size_bytes(claimed.digests) + self._size_bytes(self.todo))
            mine = {digest: self._sources[digest] for digest in claimed.digests}
            self._bulk.put_all(mine, self._on_bytes)
        ours = frozenset(claimed.digests)
        for digest in portion:
            if digest in ours:
                self._shared.pop(digest, None)
            else:
                self._shared[digest] = claimed.arriving.get(digest, self._sizes.get(digest, 0))
        return list(claimed.arriving)

    def _on_bytes(self, count: int) -> None:
        self.sent_bytes += count

    def _size_bytes(self, digests: Iterable[Digest]) -> int:
        return sum(self._sizes.get(digest, 0) for digest in digests)


def _tell_what_is_left(client: Client, name: str) -> None:
    """A person pressed ctrl-C: what came of it, and what goes on without them."""
    id, client.under_way = client.under_way, None
    if id is None:
        render.error(f"{name} is not copied; what the master has of it will not be sent again")
        return
    try:
        with Client(client.endpoint, answer_s=LOOK_S, patience_s=0.0) as own:
            rows = own.progress(id)
    except CorpsError as error:
        render.error(f"whether the copy of {name} goes on is not known: {error.message}")
        return
    left = [row.worker for row in rows if row.result == WAITING]
    if left:
        text = f"{', '.join(left[:5])}" + (f" and {len(left) - 5} more" if left[5:] else "")
        render.error(
            f"the copy of {name} goes on to {text}: 'corps progress' shows it, "
            "the same copy again waits for it"
        )
    else:
        render.error(f"the copy of {name} is over: 'corps artifacts' tells where it is")

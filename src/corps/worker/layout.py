"""Where the files of each instance lie below the worker's directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from corps.errors import Invalid
from corps.model.name import AttemptKey, attempt_key, split_attempt_key
from corps.worker.attempt_log import STREAMS

ATTEMPTS_KEPT = 10  # of one instance: their logs


class Layout:
    """Raise Invalid for what is no attempt."""

    def __init__(self, directory: Path) -> None:
        self.root = f"{directory}/instances"
        os.makedirs(self.root, mode=0o700, exist_ok=True)

    def home(self, key: AttemptKey) -> str:
        """The directory of an instance."""
        return f"{self.root}/{split_attempt_key(key)[0]}"

    def work(self, key: AttemptKey) -> str:
        """Where it runs when no other directory is asked for."""
        return f"{self.home(key)}/work"

    def stem(self, key: AttemptKey) -> str:
        """What the names of an attempt's files begin with."""
        instance, attempt = split_attempt_key(key)
        return f"{self.root}/{instance}/{attempt}"

    def log(self, key: AttemptKey, stream: str) -> str:
        if stream not in STREAMS:
            raise Invalid(f"no stream {stream[:20]!r}: stdout or stderr", field="stream")
        return f"{self.stem(key)}.{stream}"

    def make(self, key: AttemptKey) -> str:
        """Make the directories of an instance; returns where it runs. Raise OSError."""
        work = self.work(key)
        for path in (self.home(key), work):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self._drop_old(key)
        return work

    def give(self, key: AttemptKey, uid: int, gid: int, *, is_ours: bool = True) -> None:
        """Let another user run there: its directory is its own, unless that is the keeper's to
        do, and the way to it and to the files of artifacts may be gone, though not looked around
        in. Raise OSError."""
        work, worker = self.work(key), os.path.dirname(self.root)
        workers = os.path.dirname(worker)
        if is_ours:
            os.chown(work, uid, gid, follow_symlinks=False)
        above = (os.path.dirname(workers), workers, worker)
        for path in (*above, self.root, self.home(key), f"{worker}/trees"):
            os.chmod(path, os.stat(path).st_mode & 0o777 | 0o011)

    def _drop_old(self, key: AttemptKey) -> None:
        """A crash loop leaves the logs of its newest attempts only."""
        newest = split_attempt_key(key)[1]
        if newest <= ATTEMPTS_KEPT:
            return
        for name in os.listdir(self.home(key)):
            attempt = name.partition(".")[0]
            if attempt.isdecimal() and int(attempt) <= newest - ATTEMPTS_KEPT:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.home(key)}/{name}")

    def disk_bytes(self, key: AttemptKey) -> int:
        """What the logs of an attempt take."""
        size_bytes = 0
        for stream in STREAMS:
            with contextlib.suppress(OSError):
                size_bytes += os.lstat(f"{self.stem(key)}.{stream}").st_blocks * 512
        return size_bytes

    def attempts(self) -> Iterator[AttemptKey]:
        """Every attempt that has a log here, dead ones too."""
        with contextlib.suppress(OSError):
            yield from self._attempts()

    def _attempts(self) -> Iterator[AttemptKey]:
        for instance in os.listdir(self.root):
            with contextlib.suppress(OSError, Invalid):
                names = [name.partition(".") for name in os.listdir(f"{self.root}/{instance}")]
                numbers = {int(head) for head, _, tail in names if tail in STREAMS}
                for number in sorted(numbers):
                    key = attempt_key(instance, number)
                    split_attempt_key(key)
                    yield key

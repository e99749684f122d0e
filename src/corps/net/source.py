"""The files that a copy reads: they may change, vanish or become something else meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from corps.errors import Conflict, Invalid, NotFound
from corps.model.name import Digest

READ_BYTES = 1 << 20


@contextlib.contextmanager
def opened_source(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"'{path}' is gone; copy again when it is back") from None
    except OSError as error:
        raise Invalid(
            f"cannot read '{path}': {(error.strerror or str(error)).lower()}", field="path"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Invalid(f"'{path}' is no regular file", field="path")
        yield fd
    finally:
        os.close(fd)


def digest_of(path: Path) -> Digest:
    digest = blake3()
    with opened_source(path) as fd:
        while data := os.read(fd, READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def changed(path: Path) -> Conflict:
    return Conflict(f"'{path}' changed while it was copied; copy it again")

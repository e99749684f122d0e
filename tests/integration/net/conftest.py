"""Nothing may survive a test: no thread, no file descriptor."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tests.support.waiting import until


@pytest.fixture(autouse=True)
def nothing_survives() -> Iterator[None]:
    threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    until(lambda: threading.active_count() <= threads)
    until(lambda: len(os.listdir("/proc/self/fd")) <= fds)

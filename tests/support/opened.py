"""A directory that every user of the machine may pass through.

Not below pytest's own: each run of pytest closes the root of those to all other users.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="corps-test-"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)

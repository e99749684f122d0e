"""The groups that keepers make, and none of which may outlive a test."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path

from corps.keeper.cgroup import homes, name_of
from tests.support.waiting import until


def places() -> dict[str, str]:
    """Our own directory in each hierarchy, by controller; `""` is cgroup v2."""
    return homes(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def of(directory: Path) -> list[Path]:
    """All groups of the keeper of this directory, the innermost first."""
    if not directory.exists():
        return []
    found: list[Path] = []
    for place in places().values():
        for base in Path(place).glob(f"{name_of(str(directory.resolve()))}*"):
            found += [base, *(path for path in base.rglob("*") if path.is_dir())]
    return sorted(found, reverse=True)


def end(directory: Path, *, is_expected: bool) -> None:
    """Remove what a killed keeper has left: empty groups, and only if that `is_expected`."""
    left = of(directory)
    for path in left:
        remove(path)
    assert is_expected or not left, f"groups survive the test: {left}"


def remove(group: Path) -> None:
    """As soon as nobody is in it; nothing if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        until(partial(_is_empty, group))
        os.rmdir(group)


def _is_empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text()

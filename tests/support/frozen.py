"""What cannot die: a process in the freezer of cgroup v1 ignores SIGKILL until it is thawed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import groups
from tests.support.waiting import until

Frozen = Callable[[int | None], None]


@contextmanager
def freezer() -> Iterator[Frozen]:
    """`frozen(PID)` freezes, `frozen(None)` thaws."""
    group = Path(groups.places()["freezer"]) / f"corps-test-{os.getpid()}"
    group.mkdir()

    def freeze(pid: int | None) -> None:
        if pid is not None:
            (group / "cgroup.procs").write_text(str(pid))
        wanted = "THAWED" if pid is None else "FROZEN"
        (group / "freezer.state").write_text(wanted)
        until(lambda: (group / "freezer.state").read_text().strip() == wanted)

    try:
        yield freeze
    finally:
        freeze(None)
        groups.remove(group)

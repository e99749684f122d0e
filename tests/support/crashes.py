"""Dying at any instant: at each touch of a file, one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CRASH_EVENTS_MAX = 400


def die_at(event: int, act: Callable[[], object]) -> bool:
    """Run `act` in a child that dies at its nth touch of a file; did it get to its end?"""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def hook(name: str, _arguments: object) -> None:
            nonlocal seen
            if name == "open" or name.startswith(("os.", "shutil.")):
                seen += 1
                if seen == event:
                    os._exit(9)

        try:
            sys.addaudithook(hook)
            act()
        except BaseException:  # a child of a test has one way out
            os._exit(8)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def crash_everywhere(prepare: Callable[[], Callable[[], object]], check: Callable[[], None]) -> int:
    """Prepare, die at event 1, check; then at event 2, and so on. The count of events."""
    for event in range(1, CRASH_EVENTS_MAX):
        is_done = die_at(event, prepare())
        check()
        if is_done:
            return event
    raise AssertionError("it never ended")

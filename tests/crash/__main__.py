"""`make crash`: kill at every system call of every case, and print what was lost.

    python -m tests.crash [--jobs N] [--stride N] [--first N] [--only WORDS]

Ends with status 1 when anything was lost. Each case has a cluster of its own.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.crash.cases import CASES, Case, Tally
from tests.crash.forks import Fork
from tests.crash.harness import harness
from tests.crash.table import line, say, table
from tests.support.waiting import until

CASE_MAX_S = 24 * 3_600.0
SHORTEST = 16  # every case has more system calls


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases side by side")
    parser.add_argument("--stride", type=int, default=1, help="every Nth system call")
    parser.add_argument("--first", type=int, help="the system call to begin with")
    parser.add_argument("--only", default="", help="cases whose name has this")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    with tempfile.TemporaryDirectory(prefix="corps-crash-") as name:
        return _run(cases, Path(name), options)


def _run(cases: list[Case], directory: Path, options: argparse.Namespace) -> int:
    waiting, done, failed = list(cases), list[tuple[Case, Tally]](), list[Case]()
    running: dict[Case, Fork] = {}
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                case = waiting.pop(0)
                (directory / _word(case)).mkdir()
                act = functools.partial(_work, case, directory / _word(case), options)
                running[case] = Fork(act, None)
                running[case].open()
            over = until(lambda: _first_over(running), CASE_MAX_S)
            assert over is not None
            if running.pop(over).returncode:
                failed.append(over)
                continue
            data = (directory / f"{_word(over)}.json").read_bytes()
            done.append((over, msgspec.json.decode(data, type=Tally)))
            say(line(*done[-1]))
    finally:
        for fork in running.values():
            fork.terminate()
        for fork in running.values():
            fork.wait()
    return table(done, failed)


def _first_over(running: dict[Case, Fork]) -> Case | None:
    return next((case for case, fork in running.items() if fork.poll() is not None), None)


def _work(case: Case, directory: Path, options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _end)
    with harness(directory, say) as made:
        tally = made.run(case, options.first or _first(case, options.stride), options.stride)
    (directory.parent / f"{_word(case)}.json").write_bytes(msgspec.json.encode(tally))
    return 0


def _end(number: int, frame: object) -> None:
    raise SystemExit(f"told to end by signal {number}")


def _first(case: Case, stride: int) -> int:
    """When calls are left out, then not the same ones in every case."""
    return 1 + 7 * CASES.index(case) % min(stride, SHORTEST)


def _word(case: Case) -> str:
    """No directory's name begins with another's: what is left of a cluster is found by it."""
    return f"{CASES.index(case):02d}-{case.name.replace(' x ', '-').replace('+', '-')}"


if __name__ == "__main__":
    sys.exit(main())

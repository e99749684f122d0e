"""`make crash`: kill at every system call of every case, and print what was lost.

    python -m tests.crash [--jobs N] [--stride N] [--only WORDS]

Ends with status 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.crash.cases import CASES, Case, Fault, Tally
from tests.crash.harness import harness


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--jobs", type=int, default=2, help="clusters side by side")
    parser.add_argument("--stride", type=int, default=1, help="every Nth system call")
    parser.add_argument("--only", default="", help="cases whose name has this")
    options = parser.parse_args()
    cases: SimpleQueue[Case] = SimpleQueue()
    for case in CASES:
        if options.only in case.name:
            cases.put(case)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(_work, cases, options.stride) for _ in range(options.jobs)]
        tallies = [tally for job in jobs for tally in job.result()]
    return _sum(tallies)


def _work(cases: SimpleQueue[Case], stride: int) -> list[Tally]:
    tallies: list[Tally] = []
    with (
        tempfile.TemporaryDirectory(prefix="corps-crash-") as directory,
        harness(Path(directory)) as made,
    ):
        while not cases.empty():
            tallies.append(made.run(cases.get(), stride=stride, report=_say))
    return tallies


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _sum(tallies: list[Tally]) -> int:
    faults: Counter[Fault] = Counter()
    for tally in tallies:
        faults += tally.faults
        for story in tally.stories:
            _say(f"  {story}")
    kills = sum(tally.kills for tally in tallies)
    _say(f"{kills} kills")
    for fault in Fault:
        _say(f"{faults[fault]:6} of {kills} {fault}")
    return 0 if all(tally.is_clean for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())

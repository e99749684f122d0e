"""`make crash`: kill at every system call of every case, and print what was lost.

    python -m tests.crash [--jobs N] [--stride N] [--only WORDS]

Ends with status 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from tests.crash.cases import CASES, Fault, Tally
from tests.crash.harness import run_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--jobs", type=int, default=2, help="clusters side by side")
    parser.add_argument("--stride", type=int, default=1, help="every Nth system call")
    parser.add_argument("--only", default="", help="cases whose name has this")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    tallies = run_all(cases, lambda _: options.stride, options.jobs, _say)
    for line in summary(tallies):
        _say(line)
    return 0 if all(tally.is_clean for tally in tallies) else 1


def summary(tallies: Sequence[Tally]) -> list[str]:
    faults: Counter[Fault] = Counter()
    for tally in tallies:
        faults += tally.faults
    kills = sum(tally.kills for tally in tallies)
    lines = [f"  {story}" for tally in tallies for story in tally.stories]
    return [*lines, f"{kills} kills", *(f"{faults[one]:6} of {kills} {one}" for one in Fault)]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

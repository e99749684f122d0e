"""Run seeds, or replay one.

python -m tests.simulation run --seeds 200 [--start N] [--jobs N]
python -m tests.simulation replay SEED [-v]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from typing import NamedTuple

from tests.simulation.simulation import Simulation
from tests.simulation.world import TRACE_KEPT


class Outcome(NamedTuple):
    """What became of a seed; `failure` is everything one needs to look at it."""

    seed: int
    digest: str
    happenings: int
    failure: str | None


def outcome(seed: int, *, is_verbose: bool = False) -> Outcome:
    """Run one seed to its end, or to where it breaks."""
    simulation = Simulation(seed, print if is_verbose else None)
    failure = None
    try:
        simulation.run()
    except Exception:
        trace = "\n".join(simulation.world.trace)
        failure = (
            f"the last {TRACE_KEPT} events of seed {seed}:\n{trace}\n\n{traceback.format_exc()}\n"
            f"seed {seed} broke; replay it: python -m tests.simulation replay {seed} -v"
        )
    world = simulation.world
    return Outcome(seed, world.digest, world.happenings, failure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run many seeds")
    run.add_argument("--seeds", type=int, default=200)
    run.add_argument("--start", type=int, default=0)
    run.add_argument("--jobs", type=int, default=os.cpu_count())
    replay = verbs.add_parser("replay", help="run one seed again")
    replay.add_argument("seed", type=int)
    replay.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    if arguments.verb == "replay":
        result = outcome(arguments.seed, is_verbose=arguments.verbose)
        print(result.failure or f"seed {result.seed}: {result.digest}")
        return 1 if result.failure else 0
    return _run(range(arguments.start, arguments.start + arguments.seeds), arguments.jobs)


def _run(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    broken, happenings = [], 0
    with multiprocessing.Pool(jobs) as pool:
        for result in pool.imap_unordered(outcome, seeds):
            happenings += result.happenings
            if result.failure:
                broken.append(result.seed)
                print(result.failure, end="\n\n", flush=True)
    took_s = time.monotonic() - began
    print(f"{len(seeds)} seeds, {happenings} events, {took_s:.1f} s, broken: {sorted(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

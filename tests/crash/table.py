"""What was found, in words and numbers, as it is found."""

from __future__ import annotations

import sys

from tests.crash.cases import Case, Promise, Tally


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(case: Case, tally: Tally) -> str:
    found = [f"{count} {promise}" for promise, count in tally.broken.items() if count]
    found += [f"{tally.unknown} shown as unknown"] if tally.unknown else []
    return f"{case.name:28} killed {tally.kills:4} times: {', '.join(found) or 'nothing lost'}"


def table(done: list[tuple[Case, Tally]], failed: list[Case]) -> int:
    """How often each promise was looked at, and how often it was broken; 0 if never."""
    total = Tally()
    for _, tally in done:
        total.add(tally)
    say(f"\n{total.kills} kills in {len(done)} cases")
    for promise in Promise:
        say(f"{total.broken[promise]:6} of {total.looked[promise]:6} {promise}")
    say(f"{total.unknown:6} ends that neither keeper nor worker lived to see, shown as unknown")
    say(f"{total.refused:6} launches refused while no worker was there, and asked for again")
    for case in failed:
        say(f"{case.name}: the harness itself broke")
    return 0 if total.is_clean and done and not failed else 1

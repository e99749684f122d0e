"""What a crash loop costs: programs that exit at once, each started again as its policy says.

python -m bench.crash_loop
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.cluster import cluster, cpu_s
from corps.model.command import Launch
from corps.model.terms import Restart
from corps.model.view import InstanceView

COUNT = 50
FOR_S = 60.0
BUDGET_SHARE = 0.10  # of one core, of all our daemons
PROGRAM = "int main(void) { return 1; }\n"


class Found(NamedTuple):
    """Shares of one core, by daemon; and how often all of them together began an attempt."""

    shares: dict[str, float]
    attempts: int

    @property
    def share(self) -> float:
        return sum(self.shares.values())

    def text(self) -> str:
        parts = ", ".join(f"{name} {share:.2%}" for name, share in sorted(self.shares.items()))
        return f"{self.attempts} attempts of {COUNT} instances in {FOR_S:g} s; {parts}"


def measure() -> Found:
    """From the launch of all, so that the fastest part of the back-off is in it."""
    with tempfile.TemporaryDirectory() as directory, cluster() as made:
        source, program = Path(directory) / "crash.c", Path(directory) / "crash"
        source.write_text(PROGRAM)
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
        made.corps("copy", str(program))
        daemons = made.daemons()
        before = {name: cpu_s(pid) for name, pid in daemons.items()}
        begin = time.monotonic()
        made.client.launch(Launch(artifact="crash", count=COUNT, restart=Restart.ALWAYS))
        time.sleep(max(0.0, begin + FOR_S - time.monotonic()))
        took_s = time.monotonic() - begin
        shares = {name: (cpu_s(pid) - before[name]) / took_s for name, pid in daemons.items()}
        return Found(shares, _attempts(made.client.instances(("crash",))))


def _attempts(rows: Sequence[InstanceView]) -> int:
    return sum(row.attempt for row in rows)


if __name__ == "__main__":
    found = measure()
    mark = "" if found.share <= BUDGET_SHARE else "  MISSED"
    print(f"a crash loop: {found.share:.2%} of a core, budget {BUDGET_SHARE:.0%}{mark}")
    print(found.text())

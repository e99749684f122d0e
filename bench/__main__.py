"""`make bench`: every figure we publish, beside its budget and the limit measured in this run.

Writes the table to stdout and all numbers to build/bench.json. Machines are shared and noisy: read
the ratios to the limit, which was measured a moment before on the same machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import (
    beats,
    copies,
    crash_loop,
    detection,
    endurance,
    frames,
    gated,
    limits,
    logs,
    peers,
    swarm,
    trust,
    usage,
)
from bench.cluster import Cluster, cluster, cpu_s, pss_kib
from corps.model.command import Launch

IDLE_S = 30.0
Row = tuple[str, float, str, float, str]  # figure, measured, unit, budget, limit in this run

rows: list[Row] = []


def record(figure: str, value: float, unit: str, budget: float, limit: str = "") -> None:
    rows.append((figure, value, unit, budget, limit))
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:58} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def launches(made: Cluster) -> None:
    made.corps("copy", "/bin/true")
    made.corps("copy", "/bin/sleep")
    client = made.client
    sleeper = Launch(artifact="sleep", args=("1000",))
    for _ in range(20):
        client.launch(sleeper)
    times = [timed(lambda: client.launch(sleeper)) for _ in range(300)]
    client.kill(("sleep",))
    limit = f"posix_spawn {limits.posix_spawn_ms():.2f} ms, "
    limit += f"TCP round trip {limits.tcp_round_trip_ms():.2f} ms"
    record(
        "one launch, Python client, until the pid is known (p50)",
        median(times) * 1e3,
        "ms",
        3,
        limit,
    )
    floor = f"python -c pass {limits.python_start_s(sys.executable):.3f} s"
    cold = median(timed(lambda: made.corps("launch", "true")) for _ in range(10))
    record("one launch, command line", cold, "s", 0.25, floor)
    cold = median(timed(lambda: made.corps("ps")) for _ in range(10))
    record("corps ps, cold start", cold, "s", 0.25, floor)


def thousand(made: Cluster) -> None:
    client = made.client

    def run() -> None:
        ids = [i.id for i in client.launch(Launch(artifact="true", count=1_000))]
        app, first = ids[0].rsplit(".", 1)
        wanted = range(int(first), int(first) + 1_000)
        while True:
            dead = {i.id for i in client.instances((app,), with_dead=True) if i.state == "dead"}
            if all(f"{app}.{number}" in dead for number in wanted):
                return
            time.sleep(0.02)

    c_s = limits.fork_exec_wait_s(1_000, "/bin/true")
    taken = median(timed(run) for _ in range(3))
    limit = f"C fork+exec+wait4 {c_s:.2f} s, ratio {taken / c_s:.2f} (budget 2.5)"
    record("1,000 x /bin/true, every exit status durable", taken, "s", 1.5, limit)


def gate() -> None:
    taken, one_s, four_s = gated.measure()
    limit = gated.told(taken, one_s, four_s)
    record("1,000 gated launches of the keeper alone, times C", taken / one_s, "x", 2.5, limit)


def five_hundred(made: Cluster) -> None:
    client = made.client
    sleepers = Launch(artifact="sleep", args=("1000",), count=500)
    c_s = limits.fork_exec_wait_s(500, "/bin/true")
    taken = timed(lambda: client.launch(sleepers))
    record("500 x sleep, all running", taken, "s", 1.0, f"C fork+exec+wait4 {c_s:.2f} s")
    times = [timed(client.instances) for _ in range(30)]
    record("ps of 500, Python client (p50)", median(times) * 1e3, "ms", 15)
    cold = median(timed(lambda: made.corps("ps", "-o", "json")) for _ in range(5))
    record("ps of 500, command line", cold, "s", 0.5)
    taken = timed(lambda: client.stop(("sleep",)))
    record("500 x sleep, all stopped by SIGINT and known dead", taken, "s", 0.5)


def deaths(made: Cluster) -> None:
    """From kill(2) until a waiting operator has been told."""
    client = made.client
    times = []
    for instance in client.launch(Launch(artifact="sleep", args=("1000",), count=50)):
        assert instance.pid is not None
        after = max(event.seq for event in client.events(after=-1))
        begin = time.perf_counter()
        os.kill(instance.pid, 9)
        while not any(
            event.kind == "died" and event.subject == instance.id
            for event in client.events(after=after, wait_s=5)
        ):
            pass
        times.append(time.perf_counter() - begin)
    record("death known to a waiting operator (p50)", median(times) * 1e3, "ms", 5)


def idle() -> None:
    with cluster() as made:
        daemons = made.daemons()
        made.client.close()
        time.sleep(2)
        before = {name: cpu_s(pid) for name, pid in daemons.items()}
        time.sleep(IDLE_S)
        used = sum(cpu_s(pid) - before[name] for name, pid in daemons.items())
        parts = ", ".join(f"{n} {pss_kib(p) / 1024:.0f}" for n, p in sorted(daemons.items()))
        total = sum(pss_kib(pid) for pid in daemons.values()) / 1024
        record("idle, PSS of master + worker + keeper", total, "MiB", 120, parts)
        record("idle, CPU a minute", used * 60 / IDLE_S, "s", 0.5, f"measured for {IDLE_S:g} s")


def crashes() -> None:
    found = crash_loop.measure()
    figure = f"{crash_loop.COUNT} instances in a crash loop, share of a core"
    record(figure, found.share * 100, "%", crash_loop.BUDGET_SHARE * 100, found.text())


def sampler() -> None:
    cost = usage.measure()
    record("sampling 500 apps every 5 s, share of a core", cost.percent, "%", 1, usage.limit(cost))


def many_beats() -> None:
    found = beats.measure(5_000, 2.0, 20.0)
    limit = f"master's PSS {found['pss_mib']:.0f} MiB"
    record("5,000 workers beating every 2 s, share of a core", found["share"] * 100, "%", 10, limit)


def detect_and_endure() -> None:
    for row in (*detection.measure(100, 60.0), *endurance.measure(1_000, 6_000)):
        record(*row)


def main() -> None:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, "
    machine += f"Python {platform.python_version()}"
    print(machine)
    with cluster() as made:
        launches(made)
        thousand(made)
        five_hundred(made)
        deaths(made)
    gate()
    idle()
    crashes()
    many_beats()
    frames.run(record)
    logs.run(record)
    swarm.run(record)
    trust.run(record)
    if lacking := peers.lacking():
        print(f"copies are left out: apt-get install {' '.join(lacking)}", flush=True)
    else:
        copies.run(record)
    sampler()
    detect_and_endure()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    build = Path("build")
    build.mkdir(exist_ok=True)
    numbers = [
        dict(zip(("figure", "value", "unit", "budget", "limit"), r, strict=True)) for r in rows
    ]
    result = {"machine": machine, "commit": commit.stdout.strip(), "figures": numbers}
    (build / "bench.json").write_text(json.dumps(result, indent=1))
    print("\n| figure | measured | budget | limit in the same run |\n|---|---|---|---|")
    for figure, value, unit, budget, limit in rows:
        print(f"| {figure} | {value:.3g} {unit} | {budget:g} {unit} | {limit} |")
    missed = [figure for figure, value, _, budget, _ in rows if value > budget]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} within budget")


main()

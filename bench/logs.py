"""What output costs those who do not write it: heartbeats beside a flood, and looks at many logs.

`python -m bench.logs` runs it alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.cluster import Cluster, cluster, cpu_s
from corps.model.command import Launch
from corps.worker.attempt_log import AttemptLog

BEAT_S = 0.25
FOR_S = 15.0
SAMPLE_S = 0.002
LOGS = 500
FLOOD = r"""
#include <string.h>
#include <unistd.h>
/* Lines of 64 bytes, one write(2) each, for ever. */
int main(void) {
    char line[64];
    memset(line, 'x', 63);
    line[63] = '\n';
    for (;;) if (write(1, line, 64) != 64) return 1;
}
"""

Record = Callable[[str, float, str, float, str], None]


def run(record: Record) -> None:
    """All figures of this module."""
    with cluster(heartbeat_s=BEAT_S) as made:
        _flood(made, record)
    _looks(record)


def _flood(made: Cluster, record: Record) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source, binary = Path(directory) / "flood.c", Path(directory) / "flood"
        source.write_text(FLOOD)
        subprocess.run(["cc", "-O2", "-o", str(binary), str(source)], check=True)
        made.corps("copy", str(binary))
    worker = made.daemons()["worker"]
    begin, begin_cpu = time.monotonic(), cpu_s(worker)
    quiet = _longest_silence_s(made)
    quiet_share = (cpu_s(worker) - begin_cpu) / (time.monotonic() - begin) * 100
    (instance,) = made.client.launch(Launch(artifact="flood"))
    log = made.settings.worker_dir("w1") / "instances" / instance.id / "1.stdout"
    begin_bytes, begin, begin_cpu = log.stat().st_size, time.monotonic(), cpu_s(worker)
    loud = _longest_silence_s(made)
    span_s = time.monotonic() - begin
    rate = (log.stat().st_size - begin_bytes) / span_s
    share = (cpu_s(worker) - begin_cpu) / span_s * 100
    on_disk = log.stat().st_blocks * 512
    made.client.kill((instance.id,))
    limit = f"without it {quiet * 1e3:.0f} ms; it wrote {rate / 1e6:.0f} MB/s, one line a write"
    record(
        f"longest silence of a worker beating every {BEAT_S} s, one app in full flood",
        loud * 1e3,
        "ms",
        2_000 * BEAT_S,
        limit,
    )
    record(
        "share of a core of its worker meanwhile", share, "%", 5, f"without it {quiet_share:.1f} %"
    )
    text = f"{log.stat().st_size / 1e9:.2f} GB written, limit 256 MiB"
    record("on disk of that log", on_disk / (1 << 20), "MiB", 256 * 1.25 + rate / 1e6 / 2, text)


def _longest_silence_s(made: Cluster) -> float:
    """As the master measures it, over FOR_S."""
    end, longest = time.monotonic() + FOR_S, 0.0
    while time.monotonic() < end:
        (row,) = made.client.workers()
        longest = max(longest, row.last_seen_s or 0.0)
        time.sleep(SAMPLE_S)
    return longest


def _looks(record: Record) -> None:
    with tempfile.TemporaryDirectory() as directory:
        logs, files = [], []
        for number in range(LOGS):
            stem = f"{directory}/{number}"
            names = [f"{stem}.{name}" for name in ("stdout", "stderr")]
            files += [os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in names]
            logs.append(AttemptLog(stem, f"web.{number}", 1 << 30))
            logs[-1].go_live(1 << 30)
        quiet = median(_look_s(logs) for _ in range(50))
        times = []
        for _ in range(50):
            for fd in files:
                os.write(fd, b"a line\n")
            times.append(_look_s(logs))
        for fd in files:
            os.close(fd)
    text = f"{LOGS} x 2 files; {median(times) * 1e3:.1f} ms when all of them grew"
    record("CPU of one look at the logs of 500 silent apps", quiet * 1e3, "ms", 5, text)


def _look_s(logs: list[AttemptLog]) -> float:
    begin, now = time.process_time(), time.time()
    for log in logs:
        log.look(now)
        log.enforce()
    return time.process_time() - begin


def _print(figure: str, value: float, unit: str, budget: float, limit: str) -> None:
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:58} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


if __name__ == "__main__":
    run(_print)
